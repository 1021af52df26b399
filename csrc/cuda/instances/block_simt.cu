// The kernels of small.h, built for what is not on tensor cores.
#include "cuda/instances/list.h"
#include "cuda/run_small.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...)                                                           \
  template void run_forward_small<S, __VA_ARGS__>(const Forward<S>&, const Stream&); \
  template void run_backward_small<S, __VA_ARGS__>(const Backward<S>&, const Stream&);
LSTM_SIMT(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
