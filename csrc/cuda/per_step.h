// A sequence with one launch for each step (two with a projection): for any H, type and device, where no persistent
// kernel fits.
//
// Grid: tiles of units, then tiles of rows. A block computes one tile (Product, tile_gemm.h): it multiplies h (rows, P)
// with the four gates of its units, so that gates and cells follow in registers and only h and c go through memory.
// h is written to the half of its scratch that the step does not read, since other blocks still read that one; each
// element of c is read and written by one thread only. Launches on a stream run in order, which is all the
// synchronization there is, and a CUDA graph can hold them.
//
// Bound by: reading all weights, 4 H P numbers, from L2 or memory at every step, and by a launch, about 2 us.
#pragma once
#include "cuda/launch.h"
#include "cuda/lstm_cell.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

template <class Product>
struct Place {  // the first row and unit of a block's tile
  int64_t row, unit;
  LSTM_DEVICE explicit Place(int64_t units) {
    const int64_t tiles = (units + Product::kUnits - 1) / Product::kUnits;
    row = block() / tiles * Product::kRows;
    unit = block() % tiles * Product::kUnits;
  }
};

template <class S, class Product>
LSTM_KERNEL forward_step(ForwardArgs<S> p, int64_t step) {
  using A = Acc<S>;
  const int64_t t = time_of(p, step), B = p.B, H = p.H, P = p.P;
  const S* h_in = step == 0 ? p.h0 : p.h + step % 2 * B * P;
  S* h_out = p.h + (step + 1) % 2 * B * P;
  const Place<Product> place(H);
  A sums[Product::kCells][4] = {};
  const auto h = [&](int row, int64_t k) {
    const int64_t b = place.row + row;
    if (b >= B || !is_live(p, t, b) || is_reset(p, t, b)) return Product::element_of(A(0));
    const S x = h_in[b * P + k];
    if (p.recurrent_mask == nullptr) return Product::element(x);
    return Product::element_of(widen(x) * widen(p.recurrent_mask[b * P + k]));
  };
  const auto w = [&](int gate, int unit, int64_t k) {
    const int64_t u = place.unit + unit;
    return u < H ? Product::element(p.weight_hh[(gate * H + u) * P + k])
                 : Product::element_of(A(0));
  };
  multiply<Product, 4>(sums, P, h, w);
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = place.row + Product::row(cell), u = place.unit + Product::unit(cell);
    if (b >= B || u >= H) continue;
    const bool live = is_live(p, t, b);
    A c = step == 0 ? p.c0[b * H + u] : p.c[b * H + u];
    if (live) {
      const A h_new = cell_forward(p, t, b, u, sums[cell], is_reset(p, t, b) ? A(0) : c, &c);
      if (p.weight_hr != nullptr) {
        p.hidden[b * H + u] = h_new;
      } else {
        narrow(h_out + b * P + u, h_new);
        narrow(p.y + (t * B + b) * P + u, h_new);
      }
    } else {
      cell_skipped(p, t, b, u);
      if (p.weight_hr == nullptr) {
        h_out[b * P + u] = h_in[b * P + u];
        p.y[(t * B + b) * P + u] = zero<S>();
      }
    }
    p.c[b * H + u] = c;
    if (step == p.T - 1) {
      p.c_n[b * H + u] = c;
      if (p.weight_hr == nullptr) p.h_n[b * P + u] = h_out[b * P + u];
    }
  }
}

// h = hidden . weight_hr^T, after forward_step with a projection.
template <class S, class Product>
LSTM_KERNEL forward_project(ForwardArgs<S> p, int64_t step) {
  using A = Acc<S>;
  const int64_t t = time_of(p, step), B = p.B, H = p.H, P = p.P;
  const S* h_in = step == 0 ? p.h0 : p.h + step % 2 * B * P;
  S* h_out = p.h + (step + 1) % 2 * B * P;
  const Place<Product> place(P);
  A sums[Product::kCells][1] = {};
  const auto hidden = [&](int row, int64_t k) {
    const int64_t b = place.row + row;
    return Product::element_of(b < B && is_live(p, t, b) ? p.hidden[b * H + k] : A(0));
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
    S* y = p.y + (t * B + b) * P + u;
    if (is_live(p, t, b)) {
      narrow(y, sums[cell][0]);
      h_out[b * P + u] = *y;
    } else {
      *y = zero<S>();
      h_out[b * P + u] = h_in[b * P + u];
    }
    if (step == p.T - 1) p.h_n[b * P + u] = h_out[b * P + u];
  }
}

// The gradient of the h that `step` computes, for step = T - 1 down to 0: the gates' gradients of the step after (rows,
// 4H) times weight_hh, plus the gradient of y. Without a projection the step's cells follow in the same launch. Step -1
// gives grad_h0 and grad_c0.
template <class S, class Product>
LSTM_KERNEL backward_step(BackwardArgs<S> p, int64_t step) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, P = p.P, next = time_of(p, step + 1);
  const bool last = step == p.T - 1;
  const A* dh_next = p.dh + (step + 1) % 2 * B * P;
  A* dh_here = p.dh + (step + 2) % 2 * B * P;
  const Place<Product> place(P);
  A sums[Product::kCells][1] = {};
  const auto d = [&](int row, int64_t k) {
    const int64_t b = place.row + row;
    return Product::element_of(b < B ? p.grad_gates[(next * B + b) * 4 * H + k] : A(0));
  };
  const auto w = [&](int, int unit, int64_t k) {
    const int64_t u = place.unit + unit;
    return u < P ? Product::element(p.weight_hh[k * P + u]) : Product::element_of(A(0));
  };
  if (!last) multiply<Product, 1>(sums, 4 * H, d, w);
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = place.row + Product::row(cell), u = place.unit + Product::unit(cell);
    if (b >= B || u >= P) continue;
    A dh = sums[cell][0];
    if (last) {
      dh = p.grad_h_n != nullptr ? widen(p.grad_h_n[b * P + u]) : A(0);
    } else if (!is_live(p, next, b)) {
      dh = dh_next[b * P + u];  // that step left the state unchanged
    } else if (is_reset(p, next, b)) {
      dh = 0;
    } else if (p.recurrent_mask != nullptr) {
      dh *= widen(p.recurrent_mask[b * P + u]);
    }
    if (step < 0) {
      p.grad_h0[b * P + u] = dh;
      continue;
    }
    const int64_t t = time_of(p, step), at = (t * B + b) * P + u;
    const bool live = is_live(p, t, b);
    if (live && p.grad_y != nullptr) dh += widen(p.grad_y[at]);
    dh_here[b * P + u] = dh;
    if (p.weight_hr != nullptr) {
      p.grad_hidden[at] = live ? dh : A(0);
      continue;
    }
    A dc = !last ? p.dc[b * H + u] : p.grad_c_n != nullptr ? p.grad_c_n[b * H + u] : A(0);
    cell_gradient(p, t, b, u, dh, &dc);
    p.dc[b * H + u] = dc;
    if (step == 0) p.grad_c0[b * H + u] = dc;
  }
}

// The step's cells, after backward_step with a projection: dh (rows, P) times weight_hr is the gradient of h before the
// projection.
template <class S, class Product>
LSTM_KERNEL backward_project(BackwardArgs<S> p, int64_t step) {
  using A = Acc<S>;
  const int64_t t = time_of(p, step), B = p.B, H = p.H, P = p.P;
  const A* dh = p.dh + (step + 2) % 2 * B * P;
  const Place<Product> place(H);
  A sums[Product::kCells][1] = {};
  const auto d = [&](int row, int64_t k) {
    const int64_t b = place.row + row;
    return Product::element_of(b < B && is_live(p, t, b) ? dh[b * P + k] : A(0));
  };
  const auto w = [&](int, int unit, int64_t k) {
    const int64_t u = place.unit + unit;
    return u < H ? Product::element(p.weight_hr[k * H + u]) : Product::element_of(A(0));
  };
  multiply<Product, 1>(sums, P, d, w);
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = place.row + Product::row(cell), u = place.unit + Product::unit(cell);
    if (b >= B || u >= H) continue;
    A dc = step < p.T - 1 ? p.dc[b * H + u] : p.grad_c_n != nullptr ? p.grad_c_n[b * H + u] : A(0);
    cell_gradient(p, t, b, u, sums[cell][0], &dc);
    p.dc[b * H + u] = dc;
    if (step == 0) p.grad_c0[b * H + u] = dc;
  }
}

// ---- launch --------------------------------------------------------------------------------------

template <class Product, int N>
Grid tile_grid(int64_t rows, int64_t units) {
  return {tiles_of(rows, Product::kRows) * tiles_of(units, Product::kUnits), Product::kThreads,
          Product::template shared_bytes<N>()};
}
template <class S, class Product>
Grid per_step_grid(const CallSpec& c) {
  return c.backward ? tile_grid<Product, 1>(c.B, c.P) : tile_grid<Product, 4>(c.B, c.H);
}

template <class S, class Product>
void launch_forward_per_step(const ForwardArgs<S>& p, const Grid& units, uint32_t*,
                             const Stream& stream) {
  const Grid columns = tile_grid<Product, 1>(p.B, p.P);
  for (int64_t step = 0; step < p.T; ++step) {
    launch(forward_step<S, Product>, units, stream, p, step);
    if (p.weight_hr != nullptr) launch(forward_project<S, Product>, columns, stream, p, step);
  }
}
template <class S, class Product>
void launch_backward_per_step(const BackwardArgs<S>& p, const Grid& columns, uint32_t*,
                              const Stream& stream) {
  const Grid units = tile_grid<Product, 1>(p.B, p.H);
  for (int64_t step = p.T - 1; step >= -1; --step) {
    launch(backward_step<S, Product>, columns, stream, p, step);
    if (p.weight_hr != nullptr && step >= 0)
      launch(backward_project<S, Product>, units, stream, p, step);
  }
}

}  // namespace stateful_lstm::cuda
