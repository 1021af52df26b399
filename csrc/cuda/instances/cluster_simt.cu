// The kernels of cluster.h, built for what is not on tensor cores.
#include "cuda/instances/list.h"
#include "cuda/run_cluster.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...)                                                             \
  template void run_forward_cluster<S, __VA_ARGS__>(const Forward<S>&, const Stream&); \
  template void run_backward_cluster<S, __VA_ARGS__>(const Backward<S>&, const Stream&);
LSTM_SIMT(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
