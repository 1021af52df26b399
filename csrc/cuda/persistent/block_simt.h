// A whole sequence in one launch, for small H, without tensor cores: a block takes some rows and keeps all of
// weight_hh, so blocks never wait for each other and a step costs two barriers of the block.
//
// Grid: tiles of rows. Shared memory: weight_hh, filled once, as the columns of the product, (4H, P) forward and
// (P, 4H) backward; the left operand of each step, h (rows, P) or the gradients of the gates (rows, 4H), as elements
// of the product; and c or dc, (rows, H). No projection.
//
// Bound by: reading weight_hh from shared memory once a step, 4 H H numbers at 128 bytes a cycle.
#pragma once
#include "cuda/launch.h"
#include "cuda/lstm_cell.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

// A block's shared memory. N: columns of the product for each unit, 4 or 1.
template <class S, class Product, int N>
struct BlockShared {
  using Element = typename Product::Element;
  int units, K, stride;  // units rounded up to whole tiles; depth of the product
  Element* weights;      // (N * units, stride), padded with zeros
  Element* rows;         // (kRows, stride), padded with zeros
  Acc<S>* cells;         // (kRows, H)

  LSTM_DEVICE BlockShared(int64_t count, int64_t depth)
      : units(int(count + Product::kUnits - 1) / Product::kUnits * Product::kUnits),
        K(int(depth)),
        stride(Product::stride(depth)) {
    cells = static_cast<Acc<S>*>(shared_memory());
    weights = reinterpret_cast<Element*>(cells + Product::kRows * ((count + 15) / 16 * 16));
    rows = weights + N * units * stride;
  }
  static int64_t bytes(int64_t count, int64_t depth) {
    const int64_t all = (count + Product::kUnits - 1) / Product::kUnits * Product::kUnits;
    return Product::kRows * ((count + 15) / 16 * 16) * int64_t(sizeof(Acc<S>)) +
           (N * all + Product::kRows) * int64_t(Product::stride(depth)) * int64_t(sizeof(Element));
  }
  LSTM_DEVICE void clear() {
    for (int i = thread(); i < (N * units + Product::kRows) * stride; i += Product::kThreads)
      weights[i] = Product::element_of(0);
    block_barrier();
  }
};

template <class S, class Product>
LSTM_KERNEL forward_persistent_block(ForwardArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, row0 = int64_t(block()) * Product::kRows;
  BlockShared<S, Product, 4> at(H, H);
  at.clear();
  for (int i = thread(); i < 4 * H * H; i += Product::kThreads) {
    const int column = i / int(H), gate = column / int(H), unit = column % int(H);
    at.weights[(gate * at.units + unit) * at.stride + i % int(H)] =
        Product::element(p.weight_hh[i]);
  }
  const int count = int(B - row0 < Product::kRows ? B - row0 : Product::kRows);
  // Stores h as the product's operand for step `next`: times the mask, zero after a reset.
  const auto bring = [&](int row, int64_t unit, A h, int64_t next) {
    const int64_t b = row0 + row;
    if (next < p.T && is_reset(p, time_of(p, next), b)) h = 0;
    if (p.recurrent_mask != nullptr) h *= widen(p.recurrent_mask[b * H + unit]);
    at.rows[row * at.stride + unit] = Product::element_of(h);
  };
  for (int i = thread(); i < count * H; i += Product::kThreads) {
    const int row = i / int(H), unit = i % int(H);
    at.cells[i] = p.c0[(row0 + row) * H + unit];
    p.h[(row0 + row) * H + unit] = p.h0[(row0 + row) * H + unit];
    bring(row, unit, widen(p.h0[(row0 + row) * H + unit]), 0);
  }
  block_barrier();
  for (int64_t step = 0; step < p.T; ++step) {
    const int64_t t = time_of(p, step);
    // The new h stays in memory until all threads have read the old one.
    for (int first = 0; first < H; first += Product::kUnits) {
      A sums[Product::kCells][4] = {};
      Product::template accumulate<4>(sums, at.rows, at.stride, at.weights + first * at.stride,
                                      at.stride, at.units, at.K);
#pragma unroll
      for (int cell = 0; cell < Product::kCells; ++cell) {
        const int row = Product::row(cell), unit = first + Product::unit(cell);
        if (row >= count || unit >= H) continue;
        const int64_t b = row0 + row;
        if (!is_live(p, t, b)) {
          cell_skipped(p, t, b, unit);
          p.y[(t * B + b) * H + unit] = zero<S>();
          continue;
        }
        A* c = at.cells + row * H + unit;
        const A h = cell_forward(p, t, b, unit, sums[cell], is_reset(p, t, b) ? A(0) : *c, c);
        narrow(p.h + b * H + unit, h);
        p.y[(t * B + b) * H + unit] = p.h[b * H + unit];
      }
    }
    block_barrier();
    for (int i = thread(); i < count * H; i += Product::kThreads)
      bring(i / int(H), i % int(H), widen(p.h[row0 * H + i]), step + 1);
    block_barrier();
  }
  for (int i = thread(); i < count * H; i += Product::kThreads) {
    p.h_n[row0 * H + i] = p.h[row0 * H + i];
    p.c_n[row0 * H + i] = at.cells[i];
  }
}

template <class S, class Product>
LSTM_KERNEL backward_persistent_block(BackwardArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, row0 = int64_t(block()) * Product::kRows;
  BlockShared<S, Product, 1> at(H, 4 * H);
  at.clear();
  for (int i = thread(); i < 4 * H * H; i += Product::kThreads)
    at.weights[i % int(H) * at.stride + i / int(H)] = Product::element(p.weight_hh[i]);
  const int count = int(B - row0 < Product::kRows ? B - row0 : Product::kRows);
  for (int i = thread(); i < count * H; i += Product::kThreads) {
    at.cells[i] = p.grad_c_n != nullptr ? p.grad_c_n[row0 * H + i] : A(0);
    p.dh[row0 * H + i] = p.grad_h_n != nullptr ? widen(p.grad_h_n[row0 * H + i]) : A(0);
  }
  for (int64_t step = p.T - 1; step >= 0; --step) {
    const int64_t t = time_of(p, step);
    for (int i = thread(); i < count * H; i += Product::kThreads) {
      const int row = i / int(H), unit = i % int(H);
      const int64_t b = row0 + row, here = (t * B + b) * H + unit;
      A dh = p.dh[row0 * H + i];
      if (is_live(p, t, b) && p.grad_y != nullptr) dh += widen(p.grad_y[here]);
      cell_gradient(p, t, b, unit, dh, at.cells + i);
      for (int j = 0; j < 4; ++j)
        at.rows[row * at.stride + j * H + unit] =
            Product::element_of(p.grad_gates[((t * B + b) * 4 + j) * H + unit]);
    }
    block_barrier();
    for (int first = 0; first < H; first += Product::kUnits) {
      A sums[Product::kCells][1] = {};
      Product::template accumulate<1>(sums, at.rows, at.stride, at.weights + first * at.stride,
                                      at.stride, at.units, at.K);
#pragma unroll
      for (int cell = 0; cell < Product::kCells; ++cell) {
        const int row = Product::row(cell), unit = first + Product::unit(cell);
        if (row >= count || unit >= H) continue;
        const int64_t b = row0 + row;
        if (!is_live(p, t, b)) continue;  // the gradient passes the step unchanged
        A dh = is_reset(p, t, b) ? A(0) : sums[cell][0];
        if (p.recurrent_mask != nullptr) dh *= widen(p.recurrent_mask[b * H + unit]);
        p.dh[b * H + unit] = dh;
      }
    }
    block_barrier();
  }
  for (int i = thread(); i < count * H; i += Product::kThreads) {
    p.grad_h0[row0 * H + i] = p.dh[row0 * H + i];
    p.grad_c0[row0 * H + i] = at.cells[i];
  }
}

// ---- launch --------------------------------------------------------------------------------------

template <class S, class Product>
Grid persistent_block_grid(const CallSpec& c) {
  const int64_t bytes = c.backward ? BlockShared<S, Product, 1>::bytes(c.H, 4 * c.H)
                                   : BlockShared<S, Product, 4>::bytes(c.H, c.H);
  return {tiles_of(c.B, Product::kRows), Product::kThreads, bytes};
}
template <class S, class Product>
void launch_forward_persistent_block(const ForwardArgs<S>& p, const Grid& grid, uint32_t*,
                                     const Stream& stream) {
  launch(forward_persistent_block<S, Product>, grid, stream, p);
}
template <class S, class Product>
void launch_backward_persistent_block(const BackwardArgs<S>& p, const Grid& grid, uint32_t*,
                                      const Stream& stream) {
  launch(backward_persistent_block<S, Product>, grid, stream, p);
}

}  // namespace stateful_lstm::cuda
