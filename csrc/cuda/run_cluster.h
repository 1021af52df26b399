// Starts the kernels of cluster.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/persistent/cluster_simt.h"
#include "cuda/run_steps.h"

namespace stateful_lstm::cuda {

template <class Product>
int64_t cluster_forward_bytes(int64_t H) {
  return ResidentShared<Product, 4, 2>::bytes(H, H);
}
template <class Product>
int64_t cluster_backward_bytes(int64_t H) {
  return ResidentShared<Product, 1, 2>::bytes(4 * H, 4 * H);
}

template <class Product>
Grid cluster_grid(int64_t B, int64_t H, int64_t bytes) {
  const int64_t tiles = (B + Product::kRows - 1) / Product::kRows;
  const int64_t size = (H + Product::kUnits - 1) / Product::kUnits;
  return {tiles * size, Product::kThreads, bytes, int(size)};
}

template <class S, class Product>
void run_forward_cluster(const Forward<S>& p, const Stream& stream) {
  if (p.B > 0)
    launch(forward_cluster<S, Product>,
           cluster_grid<Product>(p.B, p.H, cluster_forward_bytes<Product>(p.H)), stream, p);
}
template <class S, class Product>
void run_backward_cluster(const Backward<S>& p, const Stream& stream) {
  if (p.B > 0)
    launch(backward_cluster<S, Product>,
           cluster_grid<Product>(p.B, p.H, cluster_backward_bytes<Product>(p.H)), stream, p);
}

}  // namespace stateful_lstm::cuda
