// A whole stack of layers in place on the resident state, without gradients. The operator lstm_step_ and the
// fast path from Python (bindings/fastpath_inference.cpp) both call it. No tensors, no checks.
//
// Up to kFewSteps steps run one after the other as single steps (cpu/step.h), layer by layer, with the
// weights read in place. Longer calls, and calls of several steps in both directions, run as sequences
// (layer.h).
#pragma once
#include <cstdint>
#include <vector>

#include "params.h"
#include "cpu/heuristics.h"

namespace stateful_lstm {

// The weights of one layer and direction, as in torch.nn.LSTM. Null: absent.
template <class S>
struct LayerWeights {
  const S *weight_ih, *weight_hh, *bias_ih, *bias_hh, *weight_hr;
};

using cpu::heuristics::kFewSteps;

// T steps, B rows, L layers, D directions, S slots, P size of h, H hidden size. The caller owns all memory. x
// does not overlap the state, and the outputs overlap nothing.
template <class S>
struct StackCall {
  int64_t T, B, I, H, P, L, D, slots;
  int64_t x_time, x_row;           // elements between steps and rows of x
  int64_t y_time, y_row;           // the same for y
  int64_t reset_time, reset_row;   // the same for reset
  const S* x;                      // (T, B, I)
  const bool* reset;               // (T, B) or null
  const int64_t* rows;             // (B) slot of each row, -1: padding; null: row b is slot b
  const int64_t* lengths;          // (B) steps of each row; then its state rests; null: all T
  std::vector<LayerWeights<S>> w;  // L * D
  S* h;                            // (L * D, S, P) resident
  Acc<S>* c;                       // (L * D, S, H) resident
  S* y;                            // (T, B, D * P)
  S* h_n;                          // (L * D, B, P)
  S* c_n;                          // (L * D, B, H)
};

template <class S>
void run(const StackCall<S>& call);

// Copies a batch's slot indices into `rows`; -1 marks a padding row. Returns the first row whose slot is out
// of range or taken by an earlier row, or -1 if all are valid.
template <class Index>
int64_t misplaced_row(const Index* indices, int64_t stride, int64_t B, int64_t slots,
                      std::vector<int64_t>& rows);

}  // namespace stateful_lstm
