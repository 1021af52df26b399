// The kernels of a launch a step, built for all types.
#include "cuda/instances/list.h"
#include "cuda/run_steps.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...)                                                           \
  template void run_forward_steps<S, __VA_ARGS__>(const Forward<S>&, const Stream&); \
  template void run_backward_steps<S, __VA_ARGS__>(const Backward<S>&, const Stream&);
LSTM_SIMT(LSTM_BUILD)
LSTM_TENSOR(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
