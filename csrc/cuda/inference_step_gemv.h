// An inference step for few rows by products of matrix and vector, which run as fast as the weights arrive; and the
// launches of an inference step for any number of rows.
//
// Grid: tiles of 8 units, then tiles of R rows. A warp owns one unit with its four gates. Its lanes read the unit's
// rows of both weights side by side, 16 bytes each, once for all R rows of x and h, which the L1 cache holds. Each
// lane sums its own products, then the lanes' sums are added in a fixed order: the bits of a row depend neither on
// the other rows nor on R.
//
// Bound by: reading the weights once for every R rows from L2 or memory.
#pragma once
#include "cuda/inference_step.h"
#include "cuda/launch.h"
#include "cuda/state_slots.h"

namespace stateful_lstm::cuda {

constexpr int kStepUnits = 8, kStepThreads = 32 * kStepUnits;

template <class S>
constexpr int kSixteen = 16 / int(sizeof(S));  // numbers in 16 bytes

// Numbers k, k + 1, ... of a row of K; zero past its end. `whole`: the row is 16-byte aligned in place and length.
template <class S>
LSTM_DEVICE void load_sixteen(const S* row, int64_t k, int64_t K, bool whole,
                              Acc<S> (&to)[kSixteen<S>]) {
  if (whole) {
    union Both {
      Words words;
      S numbers[kSixteen<S>];
      LSTM_DEVICE Both() {}
    } both;
    both.words = *reinterpret_cast<const Words*>(row + k);
#pragma unroll
    for (int i = 0; i < kSixteen<S>; ++i) to[i] = widen(both.numbers[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kSixteen<S>; ++i) to[i] = k + i < K ? widen(row[k + i]) : Acc<S>(0);
  }
}
template <class S>
LSTM_DEVICE bool is_whole(const S* row, int64_t K) {
  return K % kSixteen<S> == 0 && reinterpret_cast<uintptr_t>(row) % 16 == 0;
}

// sums += this lane's part of the products of R rows of x with N rows of weights, all of K numbers. A null row of x
// counts as zero.
template <class S, int R, int N>
LSTM_DEVICE void add_vectors(Acc<S> (&sums)[R][N], const S* const (&x)[R], const S* const (&w)[N],
                             int64_t K) {
  bool x_whole[R], w_whole = true;
#pragma unroll
  for (int r = 0; r < R; ++r) x_whole[r] = x[r] != nullptr && is_whole(x[r], K);
#pragma unroll
  for (int n = 0; n < N; ++n) w_whole = w_whole && is_whole(w[n], K);
  for (int64_t k = thread() % 32 * kSixteen<S>; k < K; k += 32 * kSixteen<S>) {
    Acc<S> weights[N][kSixteen<S>];
#pragma unroll
    for (int n = 0; n < N; ++n) load_sixteen(w[n], k, K, w_whole, weights[n]);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if (x[r] == nullptr) continue;
      Acc<S> numbers[kSixteen<S>];
      load_sixteen(x[r], k, K, x_whole[r], numbers);
#pragma unroll
      for (int i = 0; i < kSixteen<S>; ++i)
#pragma unroll
        for (int n = 0; n < N; ++n) sums[r][n] += numbers[i] * weights[n][i];
    }
  }
}

template <class S, int R>
LSTM_KERNEL_OF(kStepThreads)
step_gemv(InferenceStepArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, I = p.I, H = p.H, P = p.P, tiles = (H + kStepUnits - 1) / kStepUnits;
  const int64_t row0 = block() / tiles * R, unit = block() % tiles * kStepUnits + thread() / 32;
  if (unit >= H) return;  // with its whole warp
  const S *x[R], *h[R], *w_ih[4], *w_hh[4];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t b = row0 + r, slot = b < B ? slot_of(p, b) : -1;
    x[r] = slot < 0 ? nullptr : p.x + b * p.x_stride;
    h[r] = slot < 0 || starts_at_zero(p, b) ? nullptr : p.h + slot * P;
  }
#pragma unroll
  for (int gate = 0; gate < 4; ++gate) {
    w_ih[gate] = p.weight_ih + (gate * H + unit) * I;
    w_hh[gate] = p.weight_hh + (gate * H + unit) * P;
  }
  A sums[R][4] = {};
  add_vectors<S>(sums, x, w_ih, I);
  add_vectors<S>(sums, h, w_hh, P);
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int gate = 0; gate < 4; ++gate)
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) sums[r][gate] += shuffle_xor(sums[r][gate], mask);
    if (thread() % 32 == r && row0 + r < B) step_cell(p, row0 + r, unit, sums[r]);
  }
}

// ---- launch --------------------------------------------------------------------------------------

// Up to this many rows step_gemv is faster than step_tile, since tensor cores multiply 16 rows at a time.
constexpr int64_t kFewRows = 16;

template <class S, int R>
void launch_step_gemv(const InferenceStepArgs<S>& p, const Stream& stream) {
  const int64_t blocks = tiles_of(p.H, kStepUnits) * tiles_of(p.B, R);
  launch(step_gemv<S, R>, Grid{blocks, kStepThreads, 0}, stream, p);
}
template <class S, class Product>
void launch_inference_step(const InferenceStepArgs<S>& p, const Stream& stream) {
  if (p.B == 1)
    launch_step_gemv<S, 1>(p, stream);
  else if (p.B <= 4)
    launch_step_gemv<S, 4>(p, stream);
  else if (p.B <= kFewRows)
    launch_step_gemv<S, 8>(p, stream);
  else
    launch(step_tile<S, Product>, tile_grid<Product, 4>(p.B, p.H), stream, p);
  if (p.weight_hr != nullptr)
    launch(step_project<S, Product>, tile_grid<Product, 1>(p.B, p.P), stream, p);
  launch(step_commit<S>, grid_over(p.B * p.P), stream, p);
}

}  // namespace stateful_lstm::cuda
