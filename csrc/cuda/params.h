// What crosses from the host to the CUDA kernels of a sequence: pointers to device memory and sizes.
//
// Letters and meanings as in ../params.h. Here the inputs' product with weight_ih, and both biases, is
// there already: gates_x. The caller owns all memory, scratch included, and none of it overlaps.
#pragma once
#include "types.h"

namespace stateful_lstm::cuda {

template <class S>
struct Forward : SequenceParams<S> {
  const Acc<S>* gates_x;  // (T, B, 4H)
  const S* h0;            // (B, P)
  S* y;                   // (T, B, P) zero where t >= lengths[b]
  S* h_n;                 // (B, P)
  Acc<S>* c_n;            // (B, H)
  S* gates;               // (T, B, 4H) activated, for backward, or null
  Acc<S>* cells;          // (T, B, H) for backward, or null
  S* h;                   // (2, B, P) scratch: what a step reads and what it writes
  Acc<S>* c;              // (B, H) scratch
  Acc<S>* hidden;         // (B, H) scratch: h before the projection; null without one
};

template <class S>
struct Backward : BackwardParams<S> {
  Acc<S>* dh;  // (2, B, P) scratch: the gradient of h, of this step and of the one after
  Acc<S>* dc;  // (B, H) scratch
};

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
