// Compiles per_step, with and without tensor cores.
#include "cuda/instances/list.h"
#include "cuda/per_step.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) LSTM_LAUNCHES(, per_step, S, __VA_ARGS__)
LSTM_SIMT(LSTM_BUILD)
LSTM_TENSOR(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
