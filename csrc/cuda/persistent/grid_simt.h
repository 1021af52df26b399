// A whole sequence in one launch, without tensor cores, by blocks that are all on the device at once: for H whose
// weights the shared memory of all blocks together holds, on any chip. No projection.
//
// Grid: tiles of units, then tiles of rows. The blocks of one tile of rows exchange h (backward: the gradients of the
// gates) through memory, and wait for no other blocks. Each block counts its steps in a word of its own, with a release
// after it has written its part of a step; the others acquire the words of all. All blocks must be on the device at
// once, or they wait forever: the plan ensures it, and the launch is cooperative.
//
// h is double-buffered: a block writes step t + 1 over step t - 1 once it has seen every count at t, and a block that
// has counted t has finished reading t - 1. Gradients of gates have a place for every step and need no second buffer.
//
// Bound by: a release and an acquire through L2, about a microsecond, and reading weights from shared memory.
#pragma once
#include "cuda/launch.h"
#include "cuda/persistent/common.h"

namespace stateful_lstm::cuda {

// Waits until all blocks of the same rows have counted `steps`.
LSTM_DEVICE void wait_for_all(const uint32_t* counters, int64_t tiles, uint32_t steps) {
  for (int64_t i = thread(); i < tiles; i += threads())
    while (load_acquire(counters + i) < steps) emulator_yield();
  block_barrier();
}
// Counts `steps` once all threads of this block have written their part.
LSTM_DEVICE void publish_steps(uint32_t* mine, uint32_t steps) {
  block_barrier();
  if (thread() == 0) store_release(mine, steps);
}

// How many gradients of gates a block multiplies at a time: all of them would leave no shared memory for weights.
constexpr int kGradientPiece = 256;

// workspace: one counter for each block, (tiles of rows, tiles of units), zero at the start.
template <class S, class Product>
LSTM_KERNEL forward_persistent_grid(ForwardArgs<S> p, uint32_t* workspace) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, tiles = (H + Product::kUnits - 1) / Product::kUnits;
  const int64_t row0 = block() / tiles * Product::kRows, unit0 = block() % tiles * Product::kUnits;
  uint32_t* counters = workspace + block() / tiles * tiles;
  PersistentShared<Product, 4, 1> at(H, H);
  at.fill(int(H - unit0 < Product::kUnits ? H - unit0 : Product::kUnits),
          [&](int gate, int unit, int64_t k) {
            return Product::element(p.weight_hh[(gate * H + unit0 + unit) * H + k]);
          });
  A c[Product::kCells];
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
    c[cell] = b < B && u < H ? p.c0[b * H + u] : A(0);
  }
  const int rows = int(B - row0 < Product::kRows ? B - row0 : Product::kRows);
  for (int64_t step = 0; step < p.T; ++step) {
    const int64_t t = time_of(p, step);
    const S* h_in = step == 0 ? p.h0 : p.h + step % 2 * B * H;
    S* h_out = p.h + (step + 1) % 2 * B * H;
    wait_for_all(counters, tiles, uint32_t(step));
    for (int i = thread(); i < rows * H; i += Product::kThreads) {
      const int row = i / int(H), unit = i % int(H);
      at.rows[row * at.row_stride + unit] =
          recurrent_input<Product>(p, step, row0 + row, unit, h_in[row0 * H + i]);
    }
    block_barrier();
    A sums[Product::kCells][4] = {};
    at.multiply(sums, 0);
#pragma unroll
    for (int cell = 0; cell < Product::kCells; ++cell) {
      const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
      if (b >= B || u >= H) continue;
      S* y = p.y + (t * B + b) * H + u;
      if (is_live(p, t, b)) {
        const A before = is_reset(p, t, b) ? A(0) : c[cell];
        narrow(y, cell_forward(p, t, b, u, sums[cell], before, &c[cell]));
        h_out[b * H + u] = *y;
      } else {
        cell_skipped(p, t, b, u);
        *y = zero<S>();
        h_out[b * H + u] = h_in[b * H + u];
      }
      if (step == p.T - 1) {
        p.h_n[b * H + u] = h_out[b * H + u];
        p.c_n[b * H + u] = c[cell];
      }
    }
    publish_steps(counters + block() % tiles, uint32_t(step + 1));
  }
}

template <class S, class Product>
LSTM_KERNEL backward_persistent_grid(BackwardArgs<S> p, uint32_t* workspace) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, tiles = (H + Product::kUnits - 1) / Product::kUnits;
  const int64_t row0 = block() / tiles * Product::kRows, unit0 = block() % tiles * Product::kUnits;
  uint32_t* counters = workspace + block() / tiles * tiles;
  PersistentShared<Product, 1, 1> at(4 * H, kGradientPiece);
  at.fill(int(H - unit0 < Product::kUnits ? H - unit0 : Product::kUnits),
          [&](int, int unit, int64_t k) {
            return Product::element(p.weight_hh[k * H + unit0 + unit]);
          });
  A dh[Product::kCells], dc[Product::kCells];
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
    first_gradients(p, b, u, &dh[cell], &dc[cell]);
  }
  const int rows = int(B - row0 < Product::kRows ? B - row0 : Product::kRows);
  for (int64_t step = p.T - 1; step >= -1; --step) {
    const int64_t done = p.T - 1 - step;  // steps whose gradients are complete
    A sums[Product::kCells][1] = {};
    if (done > 0) {
      const A* made = p.grad_gates + (time_of(p, step + 1) * B + row0) * 4 * H;
      wait_for_all(counters, tiles, uint32_t(done));
      for (int first = 0; first < 4 * H; first += kGradientPiece) {
        if (first > 0) block_barrier();  // the piece before has been read
        const int length = 4 * H - first < kGradientPiece ? int(4 * H) - first : kGradientPiece;
        for (int i = thread(); i < Product::kRows * kGradientPiece; i += Product::kThreads) {
          const int row = i / kGradientPiece, k = i % kGradientPiece;
          const bool there = row < rows && k < length;
          at.rows[row * at.row_stride + k] =
              Product::element_of(there ? made[row * 4 * H + first + k] : A(0));
        }
        block_barrier();
        at.multiply(sums, 0, first);
      }
    }
#pragma unroll
    for (int cell = 0; cell < Product::kCells; ++cell) {
      const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
      if (b >= B || u >= H) continue;
      persistent_gradient(p, step, b, u, sums[cell][0], &dh[cell], &dc[cell]);
    }
    if (step >= 0) publish_steps(counters + block() % tiles, uint32_t(done + 1));
  }
}

// ---- launch --------------------------------------------------------------------------------------

template <class S, class Product>
Grid persistent_grid_grid(const CallSpec& c) {
  const int64_t blocks = tiles_of(c.B, Product::kRows) * tiles_of(c.H, Product::kUnits);
  const int64_t bytes = c.backward ? PersistentShared<Product, 1, 1>::bytes(4 * c.H, kGradientPiece)
                                   : PersistentShared<Product, 4, 1>::bytes(c.H, c.H);
  return {blocks, Product::kThreads, bytes, 1, true, blocks};
}
template <class S, class Product>
void launch_forward_persistent_grid(const ForwardArgs<S>& p, const Grid& grid, uint32_t* workspace,
                                    const Stream& stream) {
  launch(forward_persistent_grid<S, Product>, grid, stream, p, workspace);
}
template <class S, class Product>
void launch_backward_persistent_grid(const BackwardArgs<S>& p, const Grid& grid,
                                     uint32_t* workspace, const Stream& stream) {
  launch(backward_persistent_grid<S, Product>, grid, stream, p, workspace);
}

}  // namespace stateful_lstm::cuda
