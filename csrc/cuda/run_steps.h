// Starts the kernels of steps.h for a whole sequence, on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/launch.h"
#include "cuda/per_step.h"

namespace stateful_lstm::cuda {

template <class Product, int N>
Grid grid_of(int64_t rows, int64_t units) {
  const int64_t row_tiles = (rows + Product::kRows - 1) / Product::kRows;
  const int64_t unit_tiles = (units + Product::kUnits - 1) / Product::kUnits;
  return {row_tiles * unit_tiles, Product::kThreads, Product::template shared_bytes<N>()};
}

template <class S, class Product>
void run_forward_steps(const Forward<S>& p, const Stream& stream) {
  const Grid units = grid_of<Product, 4>(p.B, p.H), columns = grid_of<Product, 1>(p.B, p.P);
  for (int64_t step = 0; step < p.T && p.B > 0; ++step) {
    launch(forward_step<S, Product>, units, stream, p, step);
    if (p.weight_hr != nullptr) launch(forward_project<S, Product>, columns, stream, p, step);
  }
}

template <class S, class Product>
void run_backward_steps(const Backward<S>& p, const Stream& stream) {
  const Grid units = grid_of<Product, 1>(p.B, p.H), columns = grid_of<Product, 1>(p.B, p.P);
  for (int64_t step = p.T - 1; step >= -1 && p.B > 0; --step) {
    launch(backward_step<S, Product>, columns, stream, p, step);
    if (p.weight_hr != nullptr && step >= 0)
      launch(backward_project<S, Product>, units, stream, p, step);
  }
}

}  // namespace stateful_lstm::cuda
