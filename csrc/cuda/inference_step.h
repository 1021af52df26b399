// One step of one layer and direction, in place on resident state: inference with T = 1.
//
// step_tile multiplies [x; h] (rows, I + P) with [weight_ih, weight_hh] in one pass, gates and cells from the sums in
// registers; for few rows step_gemv (inference_step_gemv.h) computes the same. Each element of c belongs to one thread
// and changes in place. Other blocks still read h, so the new h goes to h_n, and step_commit, the next launch, copies
// it to the rows' slots. Nothing is allocated and nothing waits for the host, so a CUDA graph can hold all launches.
//
// Bound by: reading the weights once from L2 or memory.
#pragma once
#include "cuda/call.h"
#include "cuda/lstm_cell.h"
#include "cuda/per_step.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

template <class S>
LSTM_DEVICE int64_t slot_of(const InferenceStepArgs<S>& p, int64_t b) {
  return p.rows != nullptr ? p.rows[b] : b;
}
template <class S>
LSTM_DEVICE bool starts_at_zero(const InferenceStepArgs<S>& p, int64_t b) {
  return p.from_zero || (p.reset != nullptr && p.reset[b]);
}

// The cell of one row and unit from its sums of [x; h] . [weight_ih, weight_hh].
template <class S>
LSTM_DEVICE void step_cell(const InferenceStepArgs<S>& p, int64_t b, int64_t u,
                           const Acc<S> (&sums)[4]) {
  using A = Acc<S>;
  const int64_t H = p.H, P = p.P, slot = slot_of(p, b);
  if (slot < 0) {
    narrow(p.c_n + b * H + u, A(0));
    if (p.weight_hr != nullptr) {
      p.hidden[b * H + u] = 0;
    } else {
      p.h_n[b * P + u] = zero<S>();
      p.y[b * p.y_stride + u] = zero<S>();
    }
    return;
  }
  A pre[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const A bias =
        p.bias_ih == nullptr ? A(0) : widen(p.bias_ih[j * H + u]) + widen(p.bias_hh[j * H + u]);
    pre[j] = sums[j] + bias;
  }
  const Gates<A> gate = activate<Math<A>, A>({pre[0], pre[1], pre[2], pre[3]});
  const A before = starts_at_zero(p, b) ? A(0) : p.c[slot * H + u];
  const A c = cell_state<Math<A>>(gate, before), h = hidden_state<Math<A>>(gate.o, c);
  p.c[slot * H + u] = c;
  narrow(p.c_n + b * H + u, c);
  if (p.weight_hr != nullptr) {
    p.hidden[b * H + u] = h;
  } else {
    narrow(p.h_n + b * P + u, h);
    narrow(p.y + b * p.y_stride + u, h);
  }
}

template <class S, class Product>
LSTM_KERNEL step_tile(InferenceStepArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, I = p.I, H = p.H, P = p.P;
  const Place<Product> place(H);
  A sums[Product::kCells][4] = {};
  const auto in = [&](int row, int64_t k) {
    const int64_t b = place.row + row, slot = b < B ? slot_of(p, b) : -1;
    if (slot < 0) return Product::element_of(A(0));
    if (k < I) return Product::element(p.x[b * p.x_stride + k]);
    return starts_at_zero(p, b) ? Product::element_of(A(0))
                                : Product::element(p.h[slot * P + k - I]);
  };
  const auto w = [&](int gate, int unit, int64_t k) {
    const int64_t u = place.unit + unit;
    if (u >= H) return Product::element_of(A(0));
    return Product::element(k < I ? p.weight_ih[(gate * H + u) * I + k]
                                  : p.weight_hh[(gate * H + u) * P + k - I]);
  };
  multiply<Product, 4>(sums, I + P, in, w);
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = place.row + Product::row(cell), u = place.unit + Product::unit(cell);
    if (b < B && u < H) step_cell(p, b, u, sums[cell]);
  }
}

template <class S, class Product>
LSTM_KERNEL step_project(InferenceStepArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, P = p.P;
  const Place<Product> place(P);
  A sums[Product::kCells][1] = {};
  const auto hidden = [&](int row, int64_t k) {
    const int64_t b = place.row + row;
    return Product::element_of(b < B ? p.hidden[b * H + k] : A(0));
  };
  const auto w = [&](int, int unit, int64_t k) {
    const int64_t u = place.unit + unit;
    return u < P ? Product::element(p.weight_hr[u * H + k]) : Product::element_of(A(0));
  };
  multiply<Product, 1>(sums, H, hidden, w);
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = place.row + Product::row(cell), u = place.unit + Product::unit(cell);
    if (b >= B || u >= P) continue;
    narrow(p.h_n + b * P + u, sums[cell][0]);
    narrow(p.y + b * p.y_stride + u, sums[cell][0]);
  }
}

// Copies the new h to the rows' slots, after every block has read the old one.
template <class S>
LSTM_KERNEL step_commit(InferenceStepArgs<S> p) {
  const int64_t n = p.B * p.P;
  for (int64_t i = int64_t(block()) * threads() + thread(); i < n;
       i += int64_t(blocks()) * threads()) {
    const int64_t b = i / p.P, slot = slot_of(p, b);
    if (slot >= 0) p.h[slot * p.P + i % p.P] = p.h_n[i];
  }
}

}  // namespace stateful_lstm::cuda
