// The kernels of a step on resident state, built for all types.
#include "built.h"
#include "run_resident.h"

namespace stateful_lstm::cuda {
#define LSTM_BUILD(S, ...) \
  template void run_resident_step<S, __VA_ARGS__>(const ResidentStep<S>&, const Stream&);
LSTM_BUILT(LSTM_BUILD)

template void run_read_slots<int32_t>(const int32_t*, int64_t, int64_t, int64_t*, int32_t*,
                                      uint32_t*, const Stream&);
template void run_read_slots<int64_t>(const int64_t*, int64_t, int64_t, int64_t*, int32_t*,
                                      uint32_t*, const Stream&);
}  // namespace stateful_lstm::cuda
