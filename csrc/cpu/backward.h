// The backward recurrence.
//
// Each step computes the gradients of the gates from the saved gates and cells, then their product with
// weight_hh, which is the gradient of the previous h. Threads share the work as in forward, by rows or by
// units. Members meet when the gradients of all gates are complete and, with a projection, also when the
// gradients of h are complete.
#pragma once
#include "cpu/forward.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// The weights as columns for the products with the gradients of the gates and of h.
template <class S>
Packed<S, 2> backward_weights(const BackwardParams<S>& a) {
  return {{{a.weight_hh, 4 * a.H, a.P, a.P, 1, false},
           {a.weight_hr, a.P, a.weight_hr ? a.H : 0, a.H, 1, false}}};
}

// A single step of few rows does not repay packing, and needs no product at all if the gradient of h0 is not
// needed. The order of sums is the same in all cases.
template <class S>
Weights backward_weights_are(const BackwardParams<S>& a) {
  const bool whole_panels = a.P % (kGroup * kLanes<Acc<S>>) == 0;
  const bool multiplied = a.T > 1 || a.grad_h0 || a.weight_hr;
  const bool may =
      !a.weight_hr && a.T == 1 && a.B <= heuristics::kBackwardInPlaceRows && whole_panels;
  return may || !multiplied ? Weights::in_place : Weights::packed;
}

// The gradients of the gates of row b at step t, in the input format of products.
template <class S>
LSTM_INLINE Input<S>* grad_gates(const BackwardParams<S>& a, int64_t t, int64_t b) {
  const int64_t first = (t * a.B + b) * a.gates_stride;
  if constexpr (kPaired<S>)
    return a.grad_gates_narrow + first;
  else
    return a.grad_gates + first;
}

// The cell that step t of a row started from.
template <class S, template <class> class Params>
LSTM_INLINE const Acc<S>* previous_cell(const Params<S>& a, int64_t t, int64_t b) {
  const int64_t first = !a.reverse ? 0 : (a.lengths ? a.lengths[b] : a.T) - 1;
  if (t == first) return a.c0 + b * a.H;
  return a.cells + ((a.reverse ? t + 1 : t - 1) * a.B + b) * a.H;
}

// Gradients of one row's gates at step t for a range of units. dc becomes the gradient of the previous cell.
template <class S>
void backward_cell_row(const BackwardParams<S>& a, int64_t t, int64_t b, const Range& units,
                       const Acc<S>* dh, Acc<S>* dc) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t step_row = t * a.B + b, H = a.H;
  const bool reset = is_reset(static_cast<const SequenceParams<S>&>(a), t, b);
  const A* c_prev = previous_cell(a, t, b);
  for (int64_t unit = units.begin; unit < units.end; unit += kLanes<A>) {
    const int64_t n = H - unit;
    const S* saved = a.gates + step_row * 4 * H + unit;
    const Gates<V> gate = {load(saved, n), load(saved + H, n), load(saved + 2 * H, n),
                           load(saved + 3 * H, n)};
    const V before = reset ? V{} : load(c_prev + unit, n);
    const CellGrad<V> grad =
        cell_backward<Math<A>, V>(gate, load(a.cells + step_row * H + unit, n), before,
                                  load(dh + unit, n), load(static_cast<const A*>(dc) + unit, n));
    Input<S>* out = grad_gates(a, t, b) + unit;
    store(out, grad.gates.i, n);
    store(out + H, grad.gates.f, n);
    store(out + 2 * H, grad.gates.g, n);
    store(out + 3 * H, grad.gates.o, n);
    store(dc + unit, reset ? V{} : grad.c_prev, n);
  }
}

// dh of a member's columns: adds the gradient of step t's output to the gradient from the next step.
template <class S>
LSTM_INLINE void add_output_gradient(const BackwardParams<S>& a, int64_t t, int64_t b,
                                     const Range& columns, Acc<S>* dh) {
  using A = Acc<S>;
  const int64_t first = (t * a.B + b) * a.P;
  for (int64_t k = columns.begin; a.grad_y && k < columns.end; k += kLanes<A>) {
    const int64_t n = columns.end - k;
    store(dh + k, load(static_cast<const A*>(dh) + k, n) + load(a.grad_y + first + k, n), n);
  }
  if (a.weight_hr)
    __builtin_memcpy(a.grad_hidden + first + columns.begin, dh + columns.begin,
                     columns.size() * sizeof(A));
}

template <class S>
void backward_part(const BackwardParams<S>& a, const Acc<S>* packed_weights, Acc<S>* work,
                   const Part& part, Barrier& barrier) {
  using A = Acc<S>;
  using F = Factor<S>;
  const TilesInUse<S> tiles;
  const int64_t H = a.H, P = a.P, rows = part.row_begin, end = part.row_end;
  const Packed<S, 2> weights = backward_weights(a);
  const Range panels = share(part, weights.w[0].panels());
  const Range columns = times(panels, kGroup * kLanes<A>, P);
  const Range projected = share(part, weights.w[1].panels());
  const Range units = a.weight_hr ? times(projected, kGroup * kLanes<A>, H) : columns;
  A *dh = work, *dh_prev = dh + a.B * P, *dc = dh_prev + a.B * P, *through = dc + a.B * H;
  auto* narrow = reinterpret_cast<Input<S>*>(through + a.B * H);  // dh, as pairs
  const int64_t narrow_row = hidden_row<S>(P);                    // in factors
  const auto* pack = reinterpret_cast<const F*>(packed_weights);
  for (int64_t b = rows; b < end; ++b) {
    zero(dh + b * P + columns.begin, columns.size());
    zero(dc + b * H + units.begin, units.size());
    if (a.grad_h_n)
      load_rows(dh + b * P + columns.begin, a.grad_h_n + b * P + columns.begin, columns.size());
    if (a.grad_c_n)
      load_rows(dc + b * H + units.begin, a.grad_c_n + b * H + units.begin, units.size());
  }

  for (int64_t step = a.T - 1; step >= 0; --step) {
    const int64_t t = a.reverse ? a.T - 1 - step : step;
    for (int64_t b = rows; b < end; ++b) {
      if (kTiles<S> && columns.end == P)
        zero(grad_gates(a, t, b) + 4 * H, 2 * depth_of<S>(4 * H) - 4 * H);
      if (is_live(a, t, b)) {
        add_output_gradient(a, t, b, columns, dh + b * P);
        continue;
      }
      for (int64_t j = 0; j < kGroup; ++j)
        zero(grad_gates(a, t, b) + j * H + units.begin, units.size());
      if (a.weight_hr) zero(a.grad_hidden + (t * a.B + b) * P + columns.begin, columns.size());
    }
    const AnyLive<S> live = {a, t};
    const A* d_hidden = dh;
    if (a.weight_hr) {
      for (int64_t b = rows; kPaired<S> && b < end; ++b) {
        Input<S>* to = narrow + b * 2 * narrow_row;
        for (int64_t k = columns.begin; k < columns.end; k += kLanes<A>)
          store(to + k, load(static_cast<const A*>(dh) + b * P + k, columns.end - k),
                columns.end - k);
        if (columns.end == P) zero(to + P, 2 * depth_of<S>(P) - P);
      }
      barrier.wait(part.members);
      const void* in = kPaired<S> ? static_cast<const void*>(narrow) : dh;
      plain_product(through, H, static_cast<const F*>(in), narrow_row, rows, end, P, H, projected,
                    pack + weights.size(1), a.weight_hr, live);
      d_hidden = through;
    }
    for (int64_t b = rows; b < end; ++b)
      if (is_live(a, t, b)) backward_cell_row(a, t, b, units, d_hidden + b * H, dc + b * H);
    if (step == 0 && a.grad_h0 == nullptr) break;
    barrier.wait(part.members);
    const auto* d_gates = reinterpret_cast<const F*>(grad_gates(a, t, 0));
    constexpr int64_t each = kNumbers<F>;  // divides 4H
    plain_product(dh_prev, P, d_gates, a.gates_stride / each, rows, end, 4 * H, P, panels, pack,
                  a.weight_hh, live);
    for (int64_t b = rows; b < end; ++b) {
      A* d = dh_prev + b * P;
      if (!is_live(a, t, b)) {  // the step left the state unchanged
        __builtin_memcpy(d + columns.begin, dh + b * P + columns.begin, columns.size() * sizeof(A));
      } else if (is_reset(a, t, b)) {
        zero(d + columns.begin, columns.size());
      } else if (a.recurrent_mask) {
        for (int64_t k = columns.begin; k < columns.end; ++k)
          d[k] *= widen(a.recurrent_mask[b * P + k]);
      }
    }
    swap(dh, dh_prev);
  }
  for (int64_t b = rows; b < end; ++b) {
    if (a.grad_h0)
      __builtin_memcpy(a.grad_h0 + b * P + columns.begin, dh + b * P + columns.begin,
                       columns.size() * sizeof(A));
    __builtin_memcpy(a.grad_c0 + b * H + units.begin, dc + b * H + units.begin,
                     units.size() * sizeof(A));
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
