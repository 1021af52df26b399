// Compiles persistent_grid without tensor cores.
#include "cuda/instances/list.h"
#include "cuda/persistent/grid_simt.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) LSTM_LAUNCHES(, persistent_grid, S, __VA_ARGS__)
LSTM_SIMT(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
