// Starts the kernels of small.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/run_steps.h"
#include "cuda/persistent/block_simt.h"

namespace stateful_lstm::cuda {

// Bytes of shared memory that a block needs: what decides whether a device can take this H at all.
template <class S, class Product>
int64_t small_forward_bytes(int64_t H) {
  return SmallShared<S, Product, 4>::bytes(H, H);
}
template <class S, class Product>
int64_t small_backward_bytes(int64_t H) {
  return SmallShared<S, Product, 1>::bytes(H, 4 * H);
}

template <class S, class Product>
void run_forward_small(const Forward<S>& p, const Stream& stream) {
  const int64_t tiles = (p.B + Product::kRows - 1) / Product::kRows;
  if (tiles > 0)
    launch(forward_small<S, Product>,
           {tiles, Product::kThreads, small_forward_bytes<S, Product>(p.H)}, stream, p);
}
template <class S, class Product>
void run_backward_small(const Backward<S>& p, const Stream& stream) {
  const int64_t tiles = (p.B + Product::kRows - 1) / Product::kRows;
  if (tiles > 0)
    launch(backward_small<S, Product>,
           {tiles, Product::kThreads, small_backward_bytes<S, Product>(p.H)}, stream, p);
}

}  // namespace stateful_lstm::cuda
