// Plain structs: all that passes from the bindings to a kernel. No tensors, no torch.
//
// T steps, B rows, I input size, H hidden size, P size of h (H, or proj_size). Every array is
// dense and row-major in the shape given. S is the parameters' type; Acc<S> is the type of sums and
// of the cell state: float for bfloat16 and float, double for double.
//
// The caller owns all memory, and none of it overlaps unless it says so here.
#pragma once
#include <cstdint>

#include "bfloat16.h"

namespace stateful_lstm {

// A whole call of one layer and one direction. Steps run t = 0..T-1, or T-1..0 if `reverse`.
// A row's step t is run when t < lengths[b]; before it, h and c of the row become zero where
// reset[t][b]. `reset` is in the order of processing: for the reverse direction the caller has
// already moved it by one step.
template <class S>
struct SequenceParams {
  int64_t T, B, H, P;
  bool reverse;
  const S* weight_hh;       // (4H, P)
  const S* weight_hr;       // (P, H), or null when P == H and there is no projection
  const Acc<S>* c0;         // (B, H)
  const bool* reset;        // (T, B) or null
  const int64_t* lengths;   // (B) or null: all T
  const S* recurrent_mask;  // (B, P) or null: multiplies h before the recurrent product
};

// All that goes into a layer.
template <class S>
struct LayerParams : SequenceParams<S> {
  int64_t I;
  const S* x;          // (T, B, I)
  const S* weight_ih;  // (4H, I)
  const S* bias_ih;    // (4H) or null
  const S* bias_hh;    // (4H) or null
  const S* h0;         // (B, P)
};

template <class S>
struct ForwardParams : LayerParams<S> {
  S* y;           // (T, B, P) zero where t >= lengths[b]
  S* h_n;         // (B, P)
  Acc<S>* c_n;    // (B, H)
  S* gates;       // (T, B, 4H) activated, for backward, or null
  Acc<S>* cells;  // (T, B, H) for backward, or null
};

template <class S>
struct BackwardParams : SequenceParams<S> {
  const S* grad_y;         // (T, B, P) or null: zero
  const S* grad_h_n;       // (B, P) or null: zero
  const Acc<S>* grad_c_n;  // (B, H) or null: zero
  const S* gates;          // (T, B, 4H) from forward
  const Acc<S>* cells;     // (T, B, H) from forward
  Acc<S>* grad_gates;      // (T, B, 4H) of the pre-activations, zero where t >= lengths[b]
  S* grad_gates_narrow;    // the same where CPU products take pairs of S; grad_gates is null then
  int64_t gates_stride;    // on the CPU: numbers from one row of these to the next, 4H or more
  Acc<S>* grad_h0;         // (B, P), or null where nobody wants it
  Acc<S>* grad_c0;         // (B, H)
  Acc<S>* grad_hidden;     // (T, B, P) whole gradient of each h, for weight_hr; null without it
};

// What of backward is parallel over time, from the gradients of the gates. What is null is not wanted.
template <class S>
struct GradientParams : SequenceParams<S> {
  int64_t I;
  const S* x;              // (T, B, I)
  const S* y;              // (T, B, P) from forward
  const S* h0;             // (B, P)
  const S* weight_ih;      // (4H, I)
  const void* grad_gates;  // (T, B, 4H) of the type of sums, or of S where products take pairs of S
  int64_t gates_stride;    // numbers from one row of them to the next
  bool adds;               // adds to what is there instead of overwriting it
  Acc<S>* grad_ih;         // (4H, I)
  Acc<S>* grad_hh;         // (4H, P)
  S* narrow_ih;            // instead of grad_ih, and
  S* narrow_hh;            // of grad_hh, if T*B is kSumLength at most and nothing is there yet
  Acc<S>* grad_bias;       // (4H), of either bias
  S* grad_x;               // (T, B, I)
};

// Recomputes the activated gates of all steps from what forward kept.
template <class S>
struct RecomputeParams : LayerParams<S> {
  const S* y;           // (T, B, P) from forward
  const Acc<S>* cells;  // (T, B, H) from forward
  S* gates;             // (T, B, 4H) zero where t >= lengths[b]
};

// One step of one layer and direction, in place on the resident state.
template <class S>
struct StepParams {
  int64_t B, I, H, P;
  int64_t x_stride, y_stride, reset_stride;  // elements from one row to the next
  bool backwards;                            // go through the units from the last to the first
  bool from_zero;        // start at zero whatever the state holds (reverse direction)
  const S* weight_ih;    // (4H, I)
  const S* weight_hh;    // (4H, P)
  const S* bias_ih;      // (4H) or null
  const S* bias_hh;      // (4H) or null
  const S* weight_hr;    // (P, H) or null
  const S* x;            // (B, I)
  const int64_t* slots;  // (B) slot of each row, -1: padding; null: row b is slot b
  const bool* reset;     // (B) or null
  Acc<S>* in;            // scratch of a member or of all: x and h as step_inputs makes them
  S* h;                  // (slots, P) resident, read by step_inputs and then written
  Acc<S>* c;             // (slots, H) resident, read and written
  S* y;                  // (B, P) zero in padding rows
  S* h_n;                // (B, P)
  S* c_n;                // (B, H)
  Acc<S>* hidden;        // (B, H) scratch: h before the projection, zero in padding rows
  const Acc<S>* x_sums;  // (H, B, 4, lanes) the sums over x if they are computed already, or null
};

// The products of x with weight_ih for T steps of one layer, before any of them. A sum is kept lane by lane, since it
// goes on with h before the lanes are added up.
template <class S>
struct SumsOfXParams {
  int64_t T, B, I, H;
  int64_t x_time, x_stride;  // elements between steps and rows of x
  const S* x;                // (T, B, I)
  const S* weight_ih;        // (4H, I)
  Acc<S>* in;                // (T, B, I) scratch of a member
  Acc<S>* sums;              // (T, H, B, 4, lanes)
};

}  // namespace stateful_lstm
