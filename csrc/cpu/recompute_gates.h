// Recomputes the gates of all steps from the arrays that forward saved: x, y and the cells. Shapes: params.h.
//
// With X (T*B, I) the inputs and R (T*B, P) the h that each step started from, the sums of the gates are
//   [X, R] [weight_ih, weight_hh]^T + biases.
// They do not depend on each other. Half of them need no product: g and o follow from i, f, the cells and h
// (lstm_equations.h). Their error is that of sums over hundreds of numbers, unless a cell is very large or
// close to zero. If a block of rows contains such a cell, all sums of that vector of units are computed.
//
// Threads share the rows in blocks whose sums stay in the cache. The blocks do not depend on the number of
// threads.
#pragma once
#include "cpu/weight_gradients.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// g and o are derived from cells below kMostCell and above kLeastCell. Below that, h may be too small to be
// exact. The size of the previous cell does not matter: f times the previous cell differs from the cell by at
// most 1.
constexpr double kMostCell = 16;
template <class A>
constexpr A kLeastCell = sizeof(A) == sizeof(float) ? A(0x1p-60) : A(0x1p-400);

// The weights as columns for the products with x and h.
template <class S>
Packed<S, 2> recompute_weights(const RecomputeParams<S>& a) {
  return {{{a.weight_ih, a.I, 4 * a.H, 1, a.I, true}, {a.weight_hh, a.P, 4 * a.H, 1, a.P, true}}};
}

// Rows [begin, end) of R in the input format of products, `stride` apart.
template <class S>
void fill_hidden(const RecomputeParams<S>& a, Input<S>* to, int64_t stride, int64_t begin,
                 int64_t end) {
  for (int64_t row = begin; row < end; ++row, to += stride) {
    const S* from = hidden_row(a, row);
    const S* mask = a.recurrent_mask ? a.recurrent_mask + row % a.B * a.P : nullptr;
    for (int64_t k = 0; k < a.P; k += kLanes<Acc<S>>) {
      Vec<Acc<S>> v = from ? load(from + k, a.P - k) : Vec<Acc<S>>{};
      if (mask) v *= load(mask + k, a.P - k);
      store(to + k, v, a.P - k);
    }
    zero(to + a.P, stride - a.P);
  }
}

// The gates of rows [begin, end) and a vector of units, from the rows' sums (.., 4, lanes), with gate_lanes
// lanes per gate. If `derived`, it uses only the sums of i and f, and returns whether all cells are in range.
template <bool derived, class S>
LSTM_APART bool gates_of_rows(const RecomputeParams<S>& a, int64_t begin, int64_t end, int64_t unit,
                              const Acc<S>* sums, int64_t gate_lanes) {
  using A = Acc<S>;
  using V = Vec<A>;
  constexpr int64_t width = kGroup * kLanes<A>;
  constexpr A most = A(kMostCell * kMostCell), least = kLeastCell<A> * kLeastCell<A>;
  typename VectorOf<A>::ints beyond = {};
  const int64_t n = a.H - unit;
  for (int64_t row = begin; row < end; ++row, sums += width) {
    const int64_t t = row / a.B, b = row % a.B;
    Gates<V> gate = {};
    if (is_live(a, t, b)) {
      gate.i = load(sums);
      gate.f = load(sums + gate_lanes);
      if constexpr (derived) {
        const V c = load(a.cells + row * a.H + unit);
        const V before = is_reset(a, t, b) ? V{} : load(previous_cell(a, t, b) + unit);
        gate = gates_from_cell<Math<A>, V>(gate.i, gate.f, c, before, load(a.y + row * a.P + unit));
        const V size = c * c;
        beyond |= ~((size <= most) & (size >= least));  // also true for NaN
      } else {
        gate.g = load(sums + 2 * gate_lanes);
        gate.o = load(sums + 3 * gate_lanes);
        gate = activate<Math<A>, V>(gate);
      }
    }
    S* out = a.gates + row * 4 * a.H + unit;
    store(out, gate.i, n);
    store(out + a.H, gate.f, n);
    store(out + 2 * a.H, gate.g, n);
    store(out + 3 * a.H, gate.o, n);
  }
  bool all = true;
  for (int64_t l = 0; derived && l < kLanes<A>; ++l) all &= beyond[l] == 0;
  return all;
}

// Elements that a block of rows needs: its inputs, its h, and the sums of a panel.
template <class S>
int64_t recompute_scratch_size(const RecomputeParams<S>& a) {
  return kRecomputeRows * (a.I + a.P + 2 * kMostSpread + kGroup * kLanes<Acc<S>>);
}

// Rows [begin, end), at most kRecomputeRows. `scratch` has recompute_scratch_size elements.
template <class S>
void recompute_gates(const RecomputeParams<S>& a, const Acc<S>* packed, Acc<S>* scratch,
                     int64_t begin, int64_t end) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, width = kGroup * lanes;
  const TilesInUse<S> tiles;
  const Packed<S, 2> weights = recompute_weights(a);
  const auto* pack = reinterpret_cast<const Factor<S>*>(packed);
  const GateWeights<S> of_x = {Weights::packed, weights.w[0], pack, nullptr};
  const GateWeights<S> of_h = {Weights::packed, weights.w[1], pack + weights.size(1), nullptr};
  const int64_t rows = end - begin;
  auto* x = reinterpret_cast<Input<S>*>(scratch);
  auto* h = reinterpret_cast<Input<S>*>(scratch + kRecomputeRows * (a.I + kMostSpread));
  A* sums = scratch + kRecomputeRows * (a.I + a.P + 2 * kMostSpread);
  fill_inputs(x, of_x.stride(), a.x + begin * a.I, rows, a.I);
  fill_hidden(a, h, of_h.stride(), begin, end);
  for (int64_t p = 0; p < of_x.w.panels(); ++p) {
    const int64_t unit = p * lanes, n = a.H - unit, gate_lanes = of_x.gate_lanes(p);
    Vec<A> bias[kGroup] = {};
    for (int64_t j = 0; a.bias_ih && j < kGroup; ++j)
      bias[j] = load(a.bias_ih + j * a.H + unit, n) + load(a.bias_hh + j * a.H + unit, n);
    const auto sum = [&](int64_t gates) LSTM_LAMBDA {
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t j = 0; j < gates; ++j) store(sums + row * width + j * gate_lanes, bias[j]);
      const Sums<A> to = {sums, width, gates * gate_lanes, 0};
      add_gates(to, of_x, x, 0, rows, p, Together{1, 0}, Always{});
      add_gates(to, of_h, h, 0, rows, p, Together{1, 0}, Always{});
    };
    if (n >= lanes && !a.weight_hr) {  // i and f are one half of the panel
      sum(kGroup / 2);
      if (gates_of_rows<true>(a, begin, end, unit, sums, gate_lanes)) continue;
    }
    sum(kGroup);
    gates_of_rows<false>(a, begin, end, unit, sums, gate_lanes);
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
