// A whole sequence in one launch, without tensor cores, by clusters of blocks that write into each other's shared
// memory (sm_90 and later): for H whose weights the shared memory of one cluster holds. No projection.
//
// Grid: one cluster for each tile of rows; its blocks are tiles of units. Every block holds all of h (backward: all
// gradients of gates) of its rows in shared memory, in two buffers used in turn. A block writes its part of the next
// step into that step's buffer of every block, and one barrier of the cluster ends the step: a block that has passed it
// has finished reading the buffer that is written next.
//
// Bound by: the cluster's barrier, under half a microsecond, and reading weights from shared memory.
#pragma once
#include "cuda/launch.h"
#include "cuda/persistent/common.h"

namespace stateful_lstm::cuda {

LSTM_DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// Writes to `place` of the shared memory of all blocks of the cluster.
template <class Element>
LSTM_DEVICE void write_to_all(Element* place, Element x) {
  for (int rank = 0; rank < cluster_blocks(); ++rank) *cluster_shared(place, rank) = x;
}

template <class S, class Product>
LSTM_KERNEL forward_persistent_cluster(ForwardArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, row0 = int64_t(block()) / cluster_blocks() * Product::kRows;
  const int64_t unit0 = int64_t(cluster_rank()) * Product::kUnits;
  PersistentShared<Product, 4, 2> at(H, H);
  at.fill(int(H - unit0 < Product::kUnits ? H - unit0 : Product::kUnits),
          [&](int gate, int unit, int64_t k) {
            return Product::element(p.weight_hh[(gate * H + unit0 + unit) * H + k]);
          });
  const int rows = int(B - row0 < Product::kRows ? B - row0 : Product::kRows);
  for (int i = thread(); i < rows * H; i += Product::kThreads) {
    const int row = i / int(H), unit = i % int(H);
    at.buffer(0)[row * at.row_stride + unit] =
        recurrent_input<Product>(p, 0, row0 + row, unit, p.h0[row0 * H + i]);
  }
  A c[Product::kCells];
  S h[Product::kCells];
#pragma unroll
  for (int cell = 0; cell < Product::kCells; ++cell) {
    const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
    c[cell] = b < B && u < H ? p.c0[b * H + u] : A(0);
    h[cell] = b < B && u < H ? p.h0[b * H + u] : zero<S>();
  }
  cluster_barrier();  // all buffers are cleared, so other blocks may write to them
  for (int64_t step = 0; step < p.T; ++step) {
    const int64_t t = time_of(p, step);
    A sums[Product::kCells][4] = {};
    at.multiply(sums, int(step % 2));
#pragma unroll
    for (int cell = 0; cell < Product::kCells; ++cell) {
      const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
      if (b >= B || u >= H) continue;
      S* y = p.y + (t * B + b) * H + u;
      if (is_live(p, t, b)) {
        const A before = is_reset(p, t, b) ? A(0) : c[cell];
        narrow(&h[cell], cell_forward(p, t, b, u, sums[cell], before, &c[cell]));
        *y = h[cell];
      } else {
        cell_skipped(p, t, b, u);
        *y = zero<S>();
      }
      if (step + 1 < p.T) {
        write_to_all(at.buffer(int((step + 1) % 2)) + Product::row(cell) * at.row_stride + u,
                     recurrent_input<Product>(p, step + 1, b, u, h[cell]));
      } else {
        p.h_n[b * H + u] = h[cell];
        p.c_n[b * H + u] = c[cell];
      }
    }
    cluster_barrier();
  }
}

template <class S, class Product>
LSTM_KERNEL backward_persistent_cluster(BackwardArgs<S> p) {
  using A = Acc<S>;
  const int64_t B = p.B, H = p.H, row0 = int64_t(block()) / cluster_blocks() * Product::kRows;
  const int64_t unit0 = int64_t(cluster_rank()) * Product::kUnits;
  PersistentShared<Product, 1, 2> at(4 * H, 4 * H);
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
  cluster_barrier();  // all buffers are cleared, so other blocks may write to them
  for (int64_t step = p.T - 1; step >= -1; --step) {
    A sums[Product::kCells][1] = {};
    if (step < p.T - 1) at.multiply(sums, int((step + 1) % 2));
#pragma unroll
    for (int cell = 0; cell < Product::kCells; ++cell) {
      const int64_t b = row0 + Product::row(cell), u = unit0 + Product::unit(cell);
      if (b >= B || u >= H) continue;
      persistent_gradient(p, step, b, u, sums[cell][0], &dh[cell], &dc[cell]);
      if (step < 0) continue;
      const A* made = p.grad_gates + (time_of(p, step) * B + b) * 4 * H + u;
      for (int j = 0; j < 4; ++j)
        write_to_all(at.buffer(int(step % 2)) + Product::row(cell) * at.row_stride + j * H + u,
                     Product::element_of(made[j * H]));
    }
    cluster_barrier();
  }
}

// ---- launch --------------------------------------------------------------------------------------

template <class S, class Product>
Grid persistent_cluster_grid(const CallSpec& c) {
  const int64_t tiles = tiles_of(c.H, Product::kUnits);
  const int64_t bytes = c.backward ? PersistentShared<Product, 1, 2>::bytes(4 * c.H, 4 * c.H)
                                   : PersistentShared<Product, 4, 2>::bytes(c.H, c.H);
  return {tiles_of(c.B, Product::kRows) * tiles, Product::kThreads, bytes, int(tiles)};
}
template <class S, class Product>
void launch_forward_persistent_cluster(const ForwardArgs<S>& p, const Grid& grid, uint32_t*,
                                       const Stream& stream) {
  launch(forward_persistent_cluster<S, Product>, grid, stream, p);
}
template <class S, class Product>
void launch_backward_persistent_cluster(const BackwardArgs<S>& p, const Grid& grid, uint32_t*,
                                        const Stream& stream) {
  launch(backward_persistent_cluster<S, Product>, grid, stream, p);
}

}  // namespace stateful_lstm::cuda
