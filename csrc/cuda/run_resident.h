// Starts the kernels of resident_step.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "resident_step.h"
#include "run_steps.h"

namespace stateful_lstm::cuda {

template <class S, class Product>
void run_resident_step(const ResidentStep<S>& p, const Stream& stream) {
  if (p.B == 0) return;
  launch(step_cells<S, Product>, grid_of<Product, 4>(p.B, p.H), stream, p);
  if (p.weight_hr != nullptr)
    launch(step_project<S, Product>, grid_of<Product, 1>(p.B, p.P), stream, p);
  constexpr int kThreads = 256, kEach = 4;  // elements that a thread copies
  launch(step_commit<S>, {(p.B * p.P + kThreads * kEach - 1) / (kThreads * kEach), kThreads, 0},
         stream, p);
}

// `rows` (B) and `taken` (slots) as read_slots has them; `error` is a word that the host reads later.
template <class Index>
void run_read_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows, int32_t* taken,
                    uint32_t* error, const Stream& stream) {
  if (B > 0) launch(read_slots<Index>, {1, 256, 0}, stream, indices, B, slots, rows, taken, error);
}

}  // namespace stateful_lstm::cuda
