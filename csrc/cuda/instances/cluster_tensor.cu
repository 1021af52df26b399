// The kernels of resident_slices.h for a cluster, built for all types.
#include "cuda/instances/list.h"
#include "cuda/run_slices.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...)                                                                       \
  template void run_forward_slices<S, __VA_ARGS__>(const Forward<S>&, uint32_t*, const Stream&); \
  template void run_backward_slices<S, __VA_ARGS__>(const Backward<S>&, uint32_t*, const Stream&);
LSTM_CLUSTERS(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
