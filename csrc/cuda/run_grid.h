// Starts the kernels of grid.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/persistent/grid_simt.h"
#include "cuda/run_steps.h"

namespace stateful_lstm::cuda {

template <class Product>
int64_t grid_forward_bytes(int64_t H) {
  return ResidentShared<Product, 4, 1>::bytes(H, H);
}
template <class Product>
int64_t grid_backward_bytes(int64_t H) {
  return ResidentShared<Product, 1, 1>::bytes(4 * H, kGradientPiece);
}
// Words of `counts` that a call needs, which the caller has set to zero.
template <class Product>
int64_t grid_blocks(int64_t B, int64_t H) {
  return (B + Product::kRows - 1) / Product::kRows * ((H + Product::kUnits - 1) / Product::kUnits);
}

template <class Product>
Grid grid_of_all(int64_t B, int64_t H, int64_t bytes) {
  const int64_t blocks = grid_blocks<Product>(B, H);
  return {blocks, Product::kThreads, bytes, 1, true, blocks};
}

template <class S, class Product>
void run_forward_grid(const Forward<S>& p, uint32_t* counts, const Stream& stream) {
  if (p.B > 0)
    launch(forward_grid<S, Product>,
           grid_of_all<Product>(p.B, p.H, grid_forward_bytes<Product>(p.H)), stream, p, counts);
}
template <class S, class Product>
void run_backward_grid(const Backward<S>& p, uint32_t* counts, const Stream& stream) {
  if (p.B > 0)
    launch(backward_grid<S, Product>,
           grid_of_all<Product>(p.B, p.H, grid_backward_bytes<Product>(p.H)), stream, p, counts);
}

}  // namespace stateful_lstm::cuda
