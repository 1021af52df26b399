// Compiles persistent_block without tensor cores.
#include "cuda/instances/list.h"
#include "cuda/persistent/block_simt.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) LSTM_LAUNCHES(, persistent_block, S, __VA_ARGS__)
LSTM_SIMT(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
