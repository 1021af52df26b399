// Plain structs that carry all arguments from the bindings to the kernels. No tensors, no torch.
//
// T: steps. B: rows. I: input size. H: hidden size. P: size of h, which is H or proj_size. Every array is
// dense and row-major in the shape given. S is the type of the parameters. Acc<S> is the type of sums and of
// the cell state: float for bfloat16 and float, double for double.
//
// The caller owns all memory. Arrays do not overlap unless a comment says so.
#pragma once
#include <cstdint>

#include "bfloat16.h"

namespace stateful_lstm {

// A whole call of one layer and one direction. Steps run t = 0..T-1, or T-1..0 if `reverse`. Row b runs step
// t if t < lengths[b]. If reset[t][b] is true, h and c of the row become zero before the step. `reset` is in
// processing order: the caller has already shifted it by one step for the reverse direction.
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

// All inputs of a layer.
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
  S* grad_gates_narrow;    // same, where CPU products take pairs of S; grad_gates is then null
  int64_t gates_stride;    // CPU: elements between rows of these, 4H or more
  Acc<S>* grad_h0;         // (B, P), or null if not needed
  Acc<S>* grad_c0;         // (B, H)
  Acc<S>* grad_hidden;     // (T, B, P) full gradient of h, for weight_hr; null without weight_hr
};

// The part of backward that is parallel over time. It starts from the gradients of the gates. A null output
// is not computed.
template <class S>
struct GradientParams : SequenceParams<S> {
  int64_t I;
  const S* x;              // (T, B, I)
  const S* y;              // (T, B, P) from forward
  const S* h0;             // (B, P)
  const S* weight_ih;      // (4H, I)
  const void* grad_gates;  // (T, B, 4H) of Acc<S>, or of S where products multiply pairs of S
  int64_t gates_stride;    // elements between rows of grad_gates
  bool adds;               // adds to the outputs instead of overwriting them
  Acc<S>* grad_ih;         // (4H, I)
  Acc<S>* grad_hh;         // (4H, P)
  S* narrow_ih;            // replaces grad_ih, and
  S* narrow_hh;            // replaces grad_hh, if T*B <= kSumLength and no earlier sums exist
  Acc<S>* grad_bias;       // (4H), the same for both biases
  S* grad_x;               // (T, B, I)
};

// Recomputes the activated gates of all steps from the arrays that forward saved.
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
  int64_t x_stride, y_stride, reset_stride;  // elements between rows
  bool backwards;                            // visits the units from last to first
  bool from_zero;        // starts at zero and ignores the state (reverse direction)
  const S* weight_ih;    // (4H, I)
  const S* weight_hh;    // (4H, P)
  const S* bias_ih;      // (4H) or null
  const S* bias_hh;      // (4H) or null
  const S* weight_hr;    // (P, H) or null
  const S* x;            // (B, I)
  const int64_t* slots;  // (B) slot of each row, -1: padding; null: row b is slot b
  const bool* reset;     // (B) or null
  Acc<S>* in;            // scratch, per member or shared: x and h as step_inputs writes them
  S* h;                  // (slots, P) resident: step_inputs reads it, then it is written
  Acc<S>* c;             // (slots, H) resident, read and written
  S* y;                  // (B, P) zero in padding rows
  S* h_n;                // (B, P)
  S* c_n;                // (B, H)
  Acc<S>* hidden;        // (B, H) scratch: h before the projection, zero in padding rows
  const Acc<S>* x_sums;  // (H, B, 4, lanes) sums over x if already computed, or null
};

// The products of x with weight_ih for T steps of one layer, computed before the first step. Each sum keeps
// its lanes apart: the step continues them with h before it adds up the lanes.
template <class S>
struct SumsOfXParams {
  int64_t T, B, I, H;
  int64_t x_time, x_stride;  // elements between steps and rows of x
  const S* x;                // (T, B, I)
  const S* weight_ih;        // (4H, I)
  Acc<S>* in;                // (T, B, I) scratch of one member
  Acc<S>* sums;              // (T, H, B, 4, lanes)
};

}  // namespace stateful_lstm
