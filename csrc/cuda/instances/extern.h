// Kernels that are built in the other .cu files: this one shall not build them again.
#pragma once
#include "cuda/instances/list.h"
#include "cuda/run_cluster.h"
#include "cuda/run_grid.h"
#include "cuda/run_resident.h"
#include "cuda/run_slices.h"
#include "cuda/run_small.h"

namespace stateful_lstm::cuda {
#define LSTM_ELSEWHERE(S, ...)                                                                \
  extern template void run_forward_steps<S, __VA_ARGS__>(const Forward<S>&, const Stream&);   \
  extern template void run_backward_steps<S, __VA_ARGS__>(const Backward<S>&, const Stream&); \
  extern template void run_resident_step<S, __VA_ARGS__>(const ResidentStep<S>&, const Stream&);
LSTM_SIMT(LSTM_ELSEWHERE)
LSTM_TENSOR(LSTM_ELSEWHERE)
#undef LSTM_ELSEWHERE
#define LSTM_ELSEWHERE(S, ...)                                                                  \
  extern template void run_forward_small<S, __VA_ARGS__>(const Forward<S>&, const Stream&);     \
  extern template void run_backward_small<S, __VA_ARGS__>(const Backward<S>&, const Stream&);   \
  extern template void run_forward_cluster<S, __VA_ARGS__>(const Forward<S>&, const Stream&);   \
  extern template void run_backward_cluster<S, __VA_ARGS__>(const Backward<S>&, const Stream&); \
  extern template void run_forward_grid<S, __VA_ARGS__>(const Forward<S>&, uint32_t*,           \
                                                        const Stream&);                         \
  extern template void run_backward_grid<S, __VA_ARGS__>(const Backward<S>&, uint32_t*,         \
                                                         const Stream&);
LSTM_SIMT(LSTM_ELSEWHERE)
#undef LSTM_ELSEWHERE
#define LSTM_ELSEWHERE(S, ...)                                                            \
  extern template void run_forward_slices<S, __VA_ARGS__>(const Forward<S>&, uint32_t*,   \
                                                          const Stream&);                 \
  extern template void run_backward_slices<S, __VA_ARGS__>(const Backward<S>&, uint32_t*, \
                                                           const Stream&);
LSTM_BLOCKS(LSTM_ELSEWHERE)
LSTM_CLUSTERS(LSTM_ELSEWHERE)
LSTM_GRIDS(LSTM_ELSEWHERE)
#undef LSTM_ELSEWHERE
}  // namespace stateful_lstm::cuda
