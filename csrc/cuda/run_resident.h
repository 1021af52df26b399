// Starts the kernels of resident_step.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "resident_step.h"
#include "run_slots.h"
#include "run_steps.h"

namespace stateful_lstm::cuda {

template <class S, class Product>
void run_resident_step(const ResidentStep<S>& p, const Stream& stream) {
  if (p.B == 0) return;
  launch(step_cells<S, Product>, grid_of<Product, 4>(p.B, p.H), stream, p);
  if (p.weight_hr != nullptr)
    launch(step_project<S, Product>, grid_of<Product, 1>(p.B, p.P), stream, p);
  launch(step_commit<S>, grid_over(p.B * p.P), stream, p);
}

}  // namespace stateful_lstm::cuda
