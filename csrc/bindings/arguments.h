// From views of tensors to the structs that the kernels take (params.h), for operators and fast paths alike. Each
// function answers whether all arguments fit; an operator's checker raises an error instead of answering false.
#pragma once
#include <vector>

#include "bindings/tensor_view.h"
#include "runtime/stateful_inference.h"

namespace stateful_lstm {

// Shapes: params.h. An argument that is not given is absent, or zero for a gradient.
struct SequenceViews {
  TensorView weight_hh, weight_hr, c0, reset_mask, lengths, recurrent_mask;
};
struct LayerViews : SequenceViews {
  TensorView x, weight_ih, bias_ih, bias_hh, h0;
};
struct GradientViews : SequenceViews {
  TensorView grad_y, grad_h_n, grad_c_n, gates, cells;
  TensorView x, y, h0, weight_ih;
};

inline bool is_sequence(const TensorView& x) { return x.dims == 3 && x.size(2) >= 1; }
inline bool is_recurrent(const TensorView& weight_hh) {
  return weight_hh.dims == 2 && weight_hh.size(0) >= 4 && weight_hh.size(0) % 4 == 0 &&
         weight_hh.size(1) >= 1;
}

inline bool check_sequence(const Checker& check, const TensorView& x) {
  return check.require(is_sequence(x),
                       [&] { return "x must be (T, B, I), I 1 or more, got " + text_of(x); });
}

// x (T, B, I) and weight_hh (4H, P), from which all other sizes follow; T and B may be 0.
inline bool check_forward(const Checker& check, const LayerViews& v) {
  return check.require(is_sequence(v.x) && is_recurrent(v.weight_hh), [&] {
    return "x must be (T, B, I) and weight_hh (4H, P), I, H and P 1 or "
           "more, got " +
           text_of(v.x) + " and " + text_of(v.weight_hh);
  }) && check.require(v.bias_ih.given == v.bias_hh.given, [] {
    return "both biases or none must be given";
  });
}
inline bool check_backward(const Checker& check, const TensorView& gates,
                           const TensorView& weight_hh) {
  return check.require(
      gates.dims == 3 && is_recurrent(weight_hh) && gates.size(2) == weight_hh.size(0), [&] {
        return "gates must be (T, B, 4H) and weight_hh (4H, P), H and P 1 or more, got " +
               text_of(gates) + " and " + text_of(weight_hh);
      });
}

// p.T and p.B are set. The values of lengths are checked where the CPU can read them: check_lengths.
template <class S>
bool fill_sequence(const Checker& check, SequenceParams<S>& p, const SequenceViews& v,
                   bool reverse) {
  p.H = v.weight_hh.size(0) / 4;
  p.P = v.weight_hh.size(1);
  p.reverse = reverse;
  return check.require(v.weight_hr.given || p.P == p.H,
                       [&] {
                         return "weight_hh has " + std::to_string(p.P) +
                                " columns for H = " + std::to_string(p.H) +
                                ", which needs weight_hr";
                       }) &&
         check.fill(p.weight_hh, v.weight_hh, {4 * p.H, p.P}, "weight_hh") &&
         check.fill_optional(p.weight_hr, v.weight_hr, {p.P, p.H}, "weight_hr") &&
         check.fill(p.c0, v.c0, {p.B, p.H}, "c0") &&
         check.fill_optional(p.reset, v.reset_mask, {p.T, p.B}, "reset_mask") &&
         check.fill_optional(p.lengths, v.lengths, {p.B}, "lengths") &&
         check.fill_optional(p.recurrent_mask, v.recurrent_mask, {p.B, p.P}, "recurrent_mask");
}

inline bool check_lengths(const Checker& check, const int64_t* lengths, int64_t B, int64_t T) {
  for (int64_t b = 0; lengths != nullptr && b < B; ++b)
    if (!check.require(lengths[b] >= 0 && lengths[b] <= T, [&] {
          return "lengths[" + std::to_string(b) + "] is " + std::to_string(lengths[b]) +
                 ", expected 0 to " + std::to_string(T);
        }))
      return false;
  return true;
}

// A layer on the CPU, but for the places of its results.
template <class S>
bool fill_layer(const Checker& check, LayerParams<S>& p, const LayerViews& v, bool reverse) {
  if (!check_forward(check, v)) return false;
  p.T = v.x.size(0);
  p.B = v.x.size(1);
  p.I = v.x.size(2);
  return fill_sequence<S>(check, p, v, reverse) && check_lengths(check, p.lengths, p.B, p.T) &&
         check.fill(p.x, v.x, {p.T, p.B, p.I}, "x") &&
         check.fill(p.weight_ih, v.weight_ih, {4 * p.H, p.I}, "weight_ih") &&
         check.fill_optional(p.bias_ih, v.bias_ih, {4 * p.H}, "bias_ih") &&
         check.fill_optional(p.bias_hh, v.bias_hh, {4 * p.H}, "bias_hh") &&
         check.fill(p.h0, v.h0, {p.B, p.P}, "h0");
}

// The gradients of a layer on the CPU, but for the places of its results.
template <class S>
bool fill_gradients(const Checker& check, BackwardParams<S>& p, GradientParams<S>& g,
                    const GradientViews& v, bool reverse) {
  if (!check_backward(check, v.gates, v.weight_hh) || !check_sequence(check, v.x)) return false;
  p.T = v.gates.size(0);
  p.B = v.gates.size(1);
  g.I = v.x.size(2);
  const bool fits =
      fill_sequence<S>(check, p, v, reverse) && check_lengths(check, p.lengths, p.B, p.T) &&
      check.fill_optional(p.grad_y, v.grad_y, {p.T, p.B, p.P}, "grad_y") &&
      check.fill_optional(p.grad_h_n, v.grad_h_n, {p.B, p.P}, "grad_h_n") &&
      check.fill_optional(p.grad_c_n, v.grad_c_n, {p.B, p.H}, "grad_c_n") &&
      check.fill(p.gates, v.gates, {p.T, p.B, 4 * p.H}, "gates") &&
      check.fill(p.cells, v.cells, {p.T, p.B, p.H}, "cells") &&
      check.fill(g.x, v.x, {p.T, p.B, g.I}, "x") && check.fill(g.y, v.y, {p.T, p.B, p.P}, "y") &&
      check.fill(g.h0, v.h0, {p.B, p.P}, "h0") &&
      check.fill(g.weight_ih, v.weight_ih, {4 * p.H, g.I}, "weight_ih");
  static_cast<SequenceParams<S>&>(g) = p;
  return fits;
}

struct StateSizes {
  int64_t LD, slots, P, H;
};

// h (L*D, slots, P) and c (L*D, slots, H), dense: the state is written in place.
template <class S>
bool fill_state(const Checker& check, StateSizes& sizes, S*& h, Acc<S>*& c,
                const TensorView& h_view, const TensorView& c_view) {
  if (!check.require(h_view.dims == 3 && c_view.dims == 3,
                     [] { return "h must be (L*D, slots, P) and c (L*D, slots, H)"; }))
    return false;
  sizes = {h_view.size(0), h_view.size(1), h_view.size(2), c_view.size(2)};
  return check.fill(h, h_view, {sizes.LD, sizes.slots, sizes.P}, "h") &&
         check.fill(c, c_view, {sizes.LD, sizes.slots, sizes.H}, "c") &&
         check.require(sizes.P >= 1 && sizes.H >= 1, [&] {
           return "h and c must have a size of 1 or more, got " + std::to_string(sizes.P) +
                  " and " + std::to_string(sizes.H);
         });
}

// The slots of a batch's rows into `rows`: -1 or a slot of the state, each once. Empty without indices: row b is slot b.
inline bool fill_slots(const Checker& check, std::vector<int64_t>& rows, const TensorView& indices,
                       int64_t B, int64_t slots) {
  rows.clear();
  if (!indices.given)
    return check.require(B == slots, [&] {
      return "a batch of " + std::to_string(B) + " rows does not fit a state of " +
             std::to_string(slots) + " slots without state_indices";
    });
  const bool narrow = indices.dtype == Dtype::int32;
  if (!(narrow ? check.is<int32_t>(indices, {B}, "state_indices")
               : check.is<int64_t>(indices, {B}, "state_indices")))
    return false;
  const int64_t stride = B == 0 ? 1 : indices.stride(0);
  const int64_t wrong =
      narrow ? misplaced_row(static_cast<int32_t*>(indices.data), stride, B, slots, rows)
             : misplaced_row(static_cast<int64_t*>(indices.data), stride, B, slots, rows);
  return check.require(wrong < 0, [&] {
    const int64_t slot = rows[wrong];
    if (slot >= 0 && slot < slots)
      return "state_indices names slot " + std::to_string(slot) + " twice";
    return "state_indices[" + std::to_string(wrong) + "] is " + std::to_string(slot) +
           ", expected -1 to " + std::to_string(slots - 1);
  });
}

// A stack in place on its state. x, reset_mask and the outputs may have any strides but in the last dimension.
struct StackViews {
  TensorView x, h, c, state_indices, reset_mask, lengths;
  bool bias, bidirectional, batch_first;
};

// The call without the places of its results, and the vectors that it points to.
template <class S>
struct StackArguments {
  StackCall<S> call = {};
  std::vector<int64_t> rows, lengths;
};

// weight(k): the view of weight k of `count`, in nn.LSTM's order.
template <class S, class F>
bool fill_stack(const Checker& check, StackArguments<S>& all, const StackViews& v, int64_t count,
                const F& weight) {
  StackCall<S>& s = all.call;
  StateSizes n;
  if (!fill_state<S>(check, n, s.h, s.c, v.h, v.c) || !check.is<S>(v.x, "x") ||
      !check_sequence(check, v.x))
    return false;
  const int time = v.batch_first ? 1 : 0, row = 1 - time;
  s.D = v.bidirectional ? 2 : 1;
  s.L = n.LD / s.D;
  s.slots = n.slots;
  s.P = n.P;
  s.H = n.H;
  s.T = v.x.size(time);
  s.B = v.x.size(row);
  s.I = v.x.size(2);
  s.x = static_cast<const S*>(v.x.data);
  s.x_time = v.x.stride(time);
  s.x_row = v.x.stride(row);
  const bool projection = s.P != s.H;
  const int64_t each = 2 + (v.bias ? 2 : 0) + (projection ? 1 : 0);
  if (!check.require(s.T >= 1,
                     [&] { return "x must have at least one step, got " + std::to_string(s.T); }) ||
      !check.require(n.LD > 0 && n.LD % s.D == 0 && count == n.LD * each,
                     [&] {
                       return "the number of weights, " + std::to_string(count) +
                              ", does not fit " + std::to_string(n.LD) +
                              " states of layers and directions";
                     }) ||
      !check.require(s.I == 1 || s.B == 0 || v.x.stride(2) == 1,
                     [] { return "x must have its features side by side"; }) ||
      !fill_slots(check, all.rows, v.state_indices, s.B, s.slots))
    return false;
  if (v.state_indices.given) s.rows = all.rows.data();
  if (v.reset_mask.given) {
    const bool fits = v.batch_first ? check.is<bool>(v.reset_mask, {s.B, s.T}, "reset_mask")
                                    : check.is<bool>(v.reset_mask, {s.T, s.B}, "reset_mask");
    if (!fits) return false;
    s.reset = static_cast<const bool*>(v.reset_mask.data);
    s.reset_time = v.reset_mask.stride(time);
    s.reset_row = v.reset_mask.stride(row);
  }
  if (v.lengths.given) {
    if (!check.is<int64_t>(v.lengths, {s.B}, "lengths")) return false;
    for (int64_t b = 0; b < s.B; ++b)
      all.lengths.push_back(static_cast<const int64_t*>(v.lengths.data)[b * v.lengths.stride(0)]);
    if (!check_lengths(check, all.lengths.data(), s.B, s.T)) return false;
    s.lengths = all.lengths.data();
  }
  s.w.reserve(n.LD);
  for (int64_t k = 0; k < n.LD; ++k) {
    LayerWeights<S> w = {};
    const int64_t first = k * each, width = k < s.D ? s.I : s.D * s.P;
    if (!check.fill(w.weight_ih, weight(first), {4 * s.H, width}, "weight_ih") ||
        !check.fill(w.weight_hh, weight(first + 1), {4 * s.H, s.P}, "weight_hh"))
      return false;
    if (v.bias && (!check.fill(w.bias_ih, weight(first + 2), {4 * s.H}, "bias_ih") ||
                   !check.fill(w.bias_hh, weight(first + 3), {4 * s.H}, "bias_hh")))
      return false;
    if (projection && !check.fill(w.weight_hr, weight(first + each - 1), {s.P, s.H}, "weight_hr"))
      return false;
    s.w.push_back(w);
  }
  return true;
}

}  // namespace stateful_lstm
