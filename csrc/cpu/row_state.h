// Helpers shared by the forward and the backward recurrence: live rows, resets, rows of h and c. Shapes:
// params.h.
#pragma once
#include "cpu/pack.h"

namespace stateful_lstm::cpu::LSTM_ISA {

template <class A>
LSTM_INLINE void zero(A* p, int64_t n) {
  __builtin_memset(static_cast<void*>(p), 0, n * sizeof(A));
}

template <class S>
LSTM_INLINE bool is_live(const SequenceParams<S>& a, int64_t t, int64_t b) {
  return a.lengths == nullptr || t < a.lengths[b];
}
// Whether a tile has a live row at step t. Tile products call it as `wanted`.
template <class S>
struct AnyLive {
  const SequenceParams<S>& a;
  int64_t t;
  template <class Tile>
  LSTM_INLINE bool operator()(Tile, int64_t b) const {
    bool any = false;
    for (int r = 0; r < Tile::rows; ++r) any |= is_live(a, t, b + r);
    return any;
  }
};
template <class S>
LSTM_INLINE bool is_reset(const SequenceParams<S>& a, int64_t t, int64_t b) {
  return a.reset != nullptr && a.reset[t * a.B + b];
}

template <class S>
void load_rows(Acc<S>* to, const S* from, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes<Acc<S>>) store(to + k, load(from + k, n - k), n - k);
}
template <class S>
void store_rows(S* to, const Acc<S>* from, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes<Acc<S>>) store(to + k, load(from + k, n - k), n - k);
}

template <class X>
LSTM_INLINE void swap(X& a, X& b) {
  const X kept = a;
  a = b;
  b = kept;
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
