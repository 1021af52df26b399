// Compiles the inference step in place on resident state, with and without tensor cores.
#include "cuda/instances/list.h"
#include "cuda/inference_step_gemv.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) LSTM_STEP_LAUNCH(, S, __VA_ARGS__)
LSTM_SIMT(LSTM_BUILD)
LSTM_TENSOR(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
