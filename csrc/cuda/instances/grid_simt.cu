// The kernels of grid.h, built for what is not on tensor cores.
#include "cuda/instances/list.h"
#include "cuda/run_grid.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...)                                                                     \
  template void run_forward_grid<S, __VA_ARGS__>(const Forward<S>&, uint32_t*, const Stream&); \
  template void run_backward_grid<S, __VA_ARGS__>(const Backward<S>&, uint32_t*, const Stream&);
LSTM_SIMT(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
