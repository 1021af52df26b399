// Starts the kernels of resident_step.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/inference_step.h"
#include "cuda/run_slots.h"
#include "cuda/run_steps.h"
#include "cuda/inference_step_gemv.h"

namespace stateful_lstm::cuda {

// Rows for which products of matrix and vector are the faster ones: tensor cores want 16.
constexpr int64_t kFewRows = 16;

template <class S, int R>
void run_step_vectors(const ResidentStep<S>& p, const Stream& stream) {
  const int64_t tiles = (p.H + kStepUnits - 1) / kStepUnits;
  launch(step_vectors<S, R>, Grid{tiles * ((p.B + R - 1) / R), kStepThreads, 0}, stream, p);
}

template <class S, class Product>
void run_resident_step(const ResidentStep<S>& p, const Stream& stream) {
  if (p.B == 0) return;
  if (p.B == 1)
    run_step_vectors<S, 1>(p, stream);
  else if (p.B <= 4)
    run_step_vectors<S, 4>(p, stream);
  else if (p.B <= kFewRows)
    run_step_vectors<S, 8>(p, stream);
  else
    launch(step_cells<S, Product>, grid_of<Product, 4>(p.B, p.H), stream, p);
  if (p.weight_hr != nullptr)
    launch(step_project<S, Product>, grid_of<Product, 1>(p.B, p.P), stream, p);
  launch(step_commit<S>, grid_over(p.B * p.P), stream, p);
}

}  // namespace stateful_lstm::cuda
