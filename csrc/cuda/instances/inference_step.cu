// The kernels of a step in place on resident state, built for all types.
#include "cuda/instances/list.h"
#include "cuda/run_resident.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) \
  template void run_resident_step<S, __VA_ARGS__>(const ResidentStep<S>&, const Stream&);
LSTM_SIMT(LSTM_BUILD)
LSTM_TENSOR(LSTM_BUILD)
}  // namespace stateful_lstm::cuda
