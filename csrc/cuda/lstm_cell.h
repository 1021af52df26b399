// One row and unit at one step, forward and backward: the part that every kernel of a sequence computes after its
// products.
#pragma once
#include "cuda/call.h"
#include "cuda/numeric_types.h"

namespace stateful_lstm::cuda {

// The time of a step; steps count in the order of processing.
template <class S>
LSTM_INLINE int64_t time_of(const SequenceParams<S>& p, int64_t step) {
  return p.reverse ? p.T - 1 - step : step;
}
template <class S>
LSTM_INLINE bool is_live(const SequenceParams<S>& p, int64_t t, int64_t b) {
  return p.lengths == nullptr || t < p.lengths[b];
}
template <class S>
LSTM_INLINE bool is_reset(const SequenceParams<S>& p, int64_t t, int64_t b) {
  return p.reset != nullptr && p.reset[t * p.B + b];
}

// The other summands of a gate beside h . weight_hh: the product of the inputs and both biases.
template <class S>
LSTM_DEVICE Acc<S> from_input(const ForwardArgs<S>& p, const Acc<S>* x, int64_t column) {
  if (p.bias_ih == nullptr) return x[column];
  return x[column] + (widen(p.bias_ih[column]) + widen(p.bias_hh[column]));
}

// The cell from the four pre-activations: writes the new cell state to `c` and returns h, rounded to S unless a
// projection follows. The row must be live, and `c_before` zero after a reset.
template <class S>
LSTM_DEVICE Acc<S> cell_of_gates(const ForwardArgs<S>& p, int64_t t, int64_t b, int64_t unit,
                                 const Gates<Acc<S>>& before, Acc<S> c_before, Acc<S>* c) {
  using A = Acc<S>;
  const int64_t at = t * p.B + b, H = p.H;
  const Gates<A> gate = activate<Math<A>, A>(before);
  *c = cell_state<Math<A>>(gate, c_before);
  if (p.gates != nullptr) {
    S* saved = p.gates + at * 4 * H + unit;
    narrow(saved, gate.i);
    narrow(saved + H, gate.f);
    narrow(saved + 2 * H, gate.g);
    narrow(saved + 3 * H, gate.o);
  }
  if (p.cells != nullptr) p.cells[at * H + unit] = *c;
  const A h = hidden_state<Math<A>>(gate.o, *c);
  return p.weight_hr != nullptr ? h : round_to<S>(h);
}
// The same from the sums of h . weight_hh.
template <class S>
LSTM_DEVICE Acc<S> cell_forward(const ForwardArgs<S>& p, int64_t t, int64_t b, int64_t unit,
                                const Acc<S> (&sums)[4], Acc<S> c_before, Acc<S>* c) {
  const int64_t H = p.H;
  const Acc<S>* x = p.gates_x + (t * p.B + b) * 4 * H;
  return cell_of_gates(
      p, t, b, unit,
      {from_input(p, x, unit) + sums[0], from_input(p, x, H + unit) + sums[1],
       from_input(p, x, 2 * H + unit) + sums[2], from_input(p, x, 3 * H + unit) + sums[3]},
      c_before, c);
}

// The saved values of a row that has ended, for backward: zeros.
template <class S>
LSTM_DEVICE void cell_skipped(const ForwardArgs<S>& p, int64_t t, int64_t b, int64_t unit) {
  const int64_t at = t * p.B + b;
  for (int j = 0; p.gates != nullptr && j < 4; ++j) p.gates[(at * 4 + j) * p.H + unit] = zero<S>();
  if (p.cells != nullptr) p.cells[at * p.H + unit] = 0;
}

// The cell state that step t of a live row read.
template <class S>
LSTM_DEVICE Acc<S> cell_before(const BackwardArgs<S>& p, int64_t t, int64_t b, int64_t unit) {
  if (is_reset(p, t, b)) return 0;
  const int64_t first = !p.reverse ? 0 : (p.lengths != nullptr ? p.lengths[b] : p.T) - 1;
  if (t == first) return p.c0[b * p.H + unit];
  return p.cells[((p.reverse ? t + 1 : t - 1) * p.B + b) * p.H + unit];
}

// The saved values of a step's cell that backward reads.
template <class A>
struct Saved {
  bool live, reset;
  Gates<A> gate;
  A cell, before, grad_y;
};
template <class S>
LSTM_DEVICE Saved<Acc<S>> saved_of(const BackwardArgs<S>& p, int64_t t, int64_t b, int64_t unit) {
  const int64_t at = t * p.B + b, H = p.H;
  Saved<Acc<S>> saved = {is_live(p, t, b), is_reset(p, t, b), {}, 0, 0, 0};
  if (!saved.live) return saved;
  const S* gate = p.gates + at * 4 * H + unit;
  saved.gate = {widen(gate[0]), widen(gate[H]), widen(gate[2 * H]), widen(gate[3 * H])};
  saved.cell = p.cells[at * H + unit];
  saved.before = cell_before(p, t, b, unit);
  return saved;
}

// From the gradient of h (before a projection): writes and returns the gradients of the gates, and updates dc in place.
template <class S>
LSTM_DEVICE Gates<Acc<S>> cell_gradient(const BackwardArgs<S>& p, int64_t t, int64_t b,
                                        int64_t unit, const Saved<Acc<S>>& saved, Acc<S> dh,
                                        Acc<S>* dc) {
  using A = Acc<S>;
  A* out = p.grad_gates + (t * p.B + b) * 4 * p.H + unit;
  CellGrad<A> grad = {};
  if (saved.live) {
    grad = cell_backward<Math<A>, A>(saved.gate, saved.cell, saved.before, dh, *dc);
    *dc = saved.reset ? A(0) : grad.c_prev;
  }
  out[0] = grad.gates.i;
  out[p.H] = grad.gates.f;
  out[2 * p.H] = grad.gates.g;
  out[3 * p.H] = grad.gates.o;
  return grad.gates;
}
template <class S>
LSTM_DEVICE void cell_gradient(const BackwardArgs<S>& p, int64_t t, int64_t b, int64_t unit,
                               Acc<S> dh, Acc<S>* dc) {
  cell_gradient(p, t, b, unit, saved_of(p, t, b, unit), dh, dc);
}

}  // namespace stateful_lstm::cuda
