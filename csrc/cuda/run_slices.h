// Starts the kernels of resident_slices.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/persistent/tensor_core.h"
#include "cuda/launch.h"

namespace stateful_lstm::cuda {

// The block, the cluster or the grid that a call takes.
template <class Product, class Exchange, int N>
Grid grid_of_slices(int64_t B, int64_t H, int parts) {
  const int64_t tiles = (H + Product::kUnits - 1) / Product::kUnits;
  const int64_t row_tiles = (B + Product::kRows - 1) / Product::kRows;
  Grid grid = {tiles * row_tiles, Product::kThreads,
               SlicesShared<Product, N>::bytes(H, parts, Exchange::kInShared)};
  if constexpr (!Exchange::kInShared) {
    grid.together = true;
    grid.words = Exchange::memory_words(grid.blocks, row_tiles, Product::row_words(H, parts));
  } else {
    grid.cluster = int(tiles);
  }
  return grid;
}

template <class Way>
Grid forward_grid_of(int64_t B, int64_t H) {
  return grid_of_slices<typename Way::Forward, typename Way::Exchange, 4>(B, H, 1);
}
template <class Way>
Grid backward_grid_of(int64_t B, int64_t H) {
  return grid_of_slices<typename Way::Backward, typename Way::Exchange, 1>(B, H, 4);
}

template <class S, class Way>
void run_forward_slices(const Forward<S>& p, uint32_t* memory, const Stream& stream) {
  if (p.B > 0)
    launch(forward_slices<S, typename Way::Forward, typename Way::Exchange>,
           forward_grid_of<Way>(p.B, p.H), stream, p, memory);
}
template <class S, class Way>
void run_backward_slices(const Backward<S>& p, uint32_t* memory, const Stream& stream) {
  if (p.B > 0)
    launch(backward_slices<S, typename Way::Backward, typename Way::Exchange>,
           backward_grid_of<Way>(p.B, p.H), stream, p, memory);
}

}  // namespace stateful_lstm::cuda
