// What kernels of a sequence ask of their parameters (call.h).
#pragma once
#include "cuda/call.h"
#include "cuda/numeric_types.h"

namespace stateful_lstm::cuda {

// Time of a step in the order of processing.
template <class S>
LSTM_INLINE int64_t time_of(const SequenceParams<S>& p, int64_t step) {
  return p.reverse ? p.T - 1 - step : step;
}
template <class S>
LSTM_INLINE bool is_live(const SequenceParams<S>& p, int64_t t, int64_t b) {
  return p.lengths == nullptr || t < p.lengths[b];
}
template <class S>
LSTM_INLINE bool is_reset(const SequenceParams<S>& p, int64_t t, int64_t b) {
  return p.reset != nullptr && p.reset[t * p.B + b];
}

}  // namespace stateful_lstm::cuda
