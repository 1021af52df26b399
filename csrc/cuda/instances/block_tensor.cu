// Compiles persistent_block on tensor cores.
#include "cuda/instances/list.h"
#include "cuda/persistent/tensor_core.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) LSTM_LAUNCHES(, tensor_core, S, __VA_ARGS__)
LSTM_BLOCKS(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
