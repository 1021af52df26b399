// The common part of the persistent kernels without tensor cores that spread a sequence over several blocks
// (cluster_simt.h, grid_simt.h): a block owns a tile of units and a tile of rows, keeps the units' weights in shared
// memory and their cells in registers, and at every step reads what all blocks of its rows have computed.
#pragma once
#include "cuda/lstm_cell.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

// A block's shared memory: the weights of its units for N gates, and `Buffers` times the rows to multiply with them, or
// a piece of their depth. The padding is zero.
template <class Product, int N, int Buffers>
struct PersistentShared {
  using Element = typename Product::Element;
  int depth, piece;        // of the product; of the rows
  int stride, row_stride;  // elements from one column of weights, or row, to the next
  Element* weights;        // (N * kUnits, stride)
  Element* rows;           // (Buffers, kRows, row_stride)

  LSTM_DEVICE PersistentShared(int64_t all, int64_t at_once)
      : depth(int(all)),
        piece(int(at_once)),
        stride(Product::stride(all)),
        row_stride(Product::stride(at_once)) {
    weights = static_cast<Element*>(shared_memory());
    rows = weights + N * Product::kUnits * stride;
  }
  static int64_t bytes(int64_t all, int64_t at_once) {
    return (N * Product::kUnits * int64_t(Product::stride(all)) +
            Buffers * Product::kRows * int64_t(Product::stride(at_once))) *
           int64_t(sizeof(Element));
  }
  LSTM_DEVICE Element* buffer(int n) const { return rows + n * Product::kRows * row_stride; }

  // weight(n, unit, k) for each unit of the tile that exists.
  template <class FromW>
  LSTM_DEVICE void fill(int units, const FromW& weight) {
    for (int i = thread(); i < N * Product::kUnits * stride; i += Product::kThreads) {
      const int column = i / stride, unit = column % Product::kUnits, k = i % stride;
      weights[i] = unit < units && k < depth ? weight(column / Product::kUnits, unit, int64_t(k))
                                             : Product::element_of(0);
    }
    for (int i = thread(); i < Buffers * Product::kRows * row_stride; i += Product::kThreads)
      rows[i] = Product::element_of(0);
    block_barrier();
  }
  // Multiplies buffer n, which holds the rows' numbers from `first` on.
  template <class A>
  LSTM_DEVICE void multiply(A (&sums)[Product::kCells][N], int n, int first = 0) const {
    Product::accumulate(sums, buffer(n), row_stride, weights + first, stride, Product::kUnits,
                        depth - first < piece ? depth - first : piece);
  }
};

// The operand of the recurrent product of `step`: h times the mask, zero after a reset.
template <class Product, class S>
LSTM_DEVICE typename Product::Element recurrent_input(const ForwardArgs<S>& p, int64_t step,
                                                      int64_t b, int64_t unit, S h) {
  if (is_reset(p, time_of(p, step), b)) return Product::element_of(0);
  if (p.recurrent_mask == nullptr) return Product::element(h);
  return Product::element_of(widen(h) * widen(p.recurrent_mask[b * p.P + unit]));
}

// The gradient of the h that `step` computes, without y's part: `sum`, the product of the step after, or where the row
// has no such step the gradient of h after it, `passed`, unchanged.
template <class S>
LSTM_DEVICE Acc<S> recurrent_gradient(const BackwardArgs<S>& p, int64_t step, int64_t b,
                                      int64_t unit, Acc<S> sum, Acc<S> passed) {
  if (step == p.T - 1) return p.grad_h_n != nullptr ? widen(p.grad_h_n[b * p.P + unit]) : Acc<S>(0);
  const int64_t next = time_of(p, step + 1);
  if (!is_live(p, next, b)) return passed;
  if (is_reset(p, next, b)) return 0;
  return p.recurrent_mask != nullptr ? sum * widen(p.recurrent_mask[b * p.P + unit]) : sum;
}

// The gradients of a cell after the last step.
template <class S>
LSTM_DEVICE void first_gradients(const BackwardArgs<S>& p, int64_t b, int64_t unit, Acc<S>* dh,
                                 Acc<S>* dc) {
  *dh = 0;
  *dc = b < p.B && unit < p.H && p.grad_c_n != nullptr ? p.grad_c_n[b * p.H + unit] : Acc<S>(0);
}

// The gradients of a cell at `step` from the product's `sum`: dh and dc in place, and those of the gates into
// grad_gates, or for step -1 grad_h0 and grad_c0.
template <class S>
LSTM_DEVICE void persistent_gradient(const BackwardArgs<S>& p, int64_t step, int64_t b,
                                     int64_t unit, Acc<S> sum, Acc<S>* dh, Acc<S>* dc) {
  *dh = recurrent_gradient(p, step, b, unit, sum, *dh);
  if (step < 0) {
    p.grad_h0[b * p.H + unit] = *dh;
    p.grad_c0[b * p.H + unit] = *dc;
    return;
  }
  const int64_t t = time_of(p, step);
  if (is_live(p, t, b) && p.grad_y != nullptr) *dh += widen(p.grad_y[(t * p.B + b) * p.H + unit]);
  cell_gradient(p, t, b, unit, *dh, dc);
}

}  // namespace stateful_lstm::cuda
