// T = 1 for one layer, in place on the resident state: matrix-vector products with gemv.h. Shapes: params.h.
//
// The weights are read once, in place. Nothing is packed and nothing is kept between calls, so nothing can be
// stale. In a call of several steps, every step after the first reads h from the outputs of the previous
// step. If inputs are many and rows few, the sums over x are computed for all steps at once, so that
// weight_ih is read once for all steps.
//
// Members of a team share the units. Each member prepares the inputs for itself, unless they are few:
// otherwise it would wait for data that another member wrote. A member may write the state's h after all
// members have read it to prepare their inputs.
#pragma once
#include "cpu/gemv.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// The slot of a row; -1 for a padding row.
template <class S>
LSTM_INLINE int64_t slot_of(const StepParams<S>& a, int64_t b) {
  return a.slots ? a.slots[b] : b;
}
// A row that starts at zero never reads its old state, which may hold NaN.
template <class S>
LSTM_INLINE bool starts_at_zero(const StepParams<S>& a, int64_t b) {
  return a.from_zero || (a.reset && a.reset[b * a.reset_stride]);
}

// The h that a row's step starts from: the y of the previous step if given, otherwise the state's h.
template <class S>
LSTM_INLINE const S* hidden_of(const StepParams<S>& a, const S* before, int64_t b) {
  return before ? before + b * a.y_stride : a.h + slot_of(a, b) * a.P;
}

// All rows of the batch as [x; h], in a.in (B, I + P). Padding rows are zero.
template <class S>
LSTM_INLINE Input<S>* inputs(const StepParams<S>& a) {
  return reinterpret_cast<Input<S>*>(a.in);
}
template <class S>
void tile_step_inputs(const StepParams<S>& a, const S* before);  // step_amx.h
template <class S>
void tile_step_units(const StepParams<S>& a, int64_t begin, int64_t end);

template <class S>
void step_inputs(const StepParams<S>& a, const S* before) {
  if constexpr (kTiles<S>) return tile_step_inputs(a, before);
  Input<S>* in = inputs(a);
  for (int64_t b = 0; b < a.B; ++b, in += a.I + a.P) {
    const int64_t slot = slot_of(a, b);
    if (slot < 0) {
      zero(in, a.I + a.P);
      continue;
    }
    if (a.x_sums == nullptr) load_inputs(in, a.x + b * a.x_stride, a.I);
    if (starts_at_zero(a, b))
      zero(in + a.I, a.P);
    else
      load_inputs(in + a.I, hidden_of(a, before, b), a.P);
  }
}

// The sums over x of units [begin, end), for all steps and rows. The steps continue these sums with h, in the
// same order as a step that starts from x.
template <class S>
void step_x_sums(const SumsOfXParams<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  auto* in = reinterpret_cast<Input<S>*>(a.in);
  const int64_t rows = a.T * a.B;
  for (int64_t row = 0; row < rows; ++row)
    load_inputs(in + row * a.I, a.x + row / a.B * a.x_time + row % a.B * a.x_stride, a.I);
  for (int64_t unit = begin; unit < end; ++unit)
    in_tiles<kDotRows<S, Input<S>>>(0, rows, [&](auto tile, int64_t b) LSTM_LAMBDA {
      constexpr int R = decltype(tile)::rows;
      Vec<A> sum[R][kGroup] = {};
      add_products<S, R, kGroup>(sum, a.weight_ih + unit * a.I, a.H * a.I, a.I,
                                 static_cast<const Input<S>*>(in) + b * a.I, a.I);
      for (int r = 0; r < R; ++r) {
        const int64_t t = (b + r) / a.B, place = (t * a.H + unit) * a.B + (b + r) % a.B;
        for (int j = 0; j < kGroup; ++j)
          store(a.sums + (place * kGroup + j) * kLanes<A>, sum[r][j]);
      }
    });
}

// Stores the first n numbers of a vector of a row's h, from number `first` on, in the state and the outputs.
template <class S>
LSTM_INLINE void store_hidden(const StepParams<S>& a, int64_t first, int64_t b,
                              const Vec<Acc<S>>& h, int64_t n) {
  store(a.h + slot_of(a, b) * a.P + first, h, n);
  store(a.h_n + b * a.P + first, h, n);
  store(a.y + b * a.y_stride + first, h, n);
}
// The cells of n units from `unit` on, for row b.
template <class S>
LSTM_INLINE void step_cell(const StepParams<S>& a, int64_t unit, int64_t n, int64_t b,
                           const Gates<Vec<Acc<S>>>& pre) {
  using A = Acc<S>;
  using V = Vec<A>;
  A* c = a.c + slot_of(a, b) * a.H + unit;
  const Gates<V> gate = activate<Math<A>, V>(pre);
  const V cell =
      cell_state<Math<A>>(gate, starts_at_zero(a, b) ? V{} : load(static_cast<const A*>(c), n));
  const V h = hidden_state<Math<A>>(gate.o, cell);
  store(c, cell, n);
  store(a.c_n + b * a.H + unit, cell, n);
  if (a.weight_hr)
    store(a.hidden + b * a.H + unit, h, n);
  else
    store_hidden(a, unit, b, h, n);
}
// The outputs of a padding row, which has no state.
template <class S>
LSTM_INLINE void step_padding(const StepParams<S>& a, int64_t unit, int64_t n, int64_t b) {
  zero(a.c_n + b * a.H + unit, n);
  if (a.weight_hr) return;
  zero(a.h_n + b * a.P + unit, n);
  zero(a.y + b * a.y_stride + unit, n);
}

// `live` units, at most a vector, for batch rows [begin, end), at most kRowsAtOnce.
template <class S>
void step_block(const StepParams<S>& a, int64_t unit, int64_t live, int64_t begin, int64_t end) {
  using A = Acc<S>;
  Vec<A> pre[kRowsAtOnce][kGroup], bias[kGroup] = {};
  const WeightRows<S> first = {a.weight_ih, a.I}, second = {a.weight_hh, a.P};
  const Input<S>* in = inputs(a) + begin * (a.I + a.P);
  if (a.x_sums)
    gate_dots<S>(first, second, a.H, unit, live, in, end - begin, SumsOfX<A>{a.x_sums, a.B, begin},
                 pre);
  else
    gate_dots<S>(first, second, a.H, unit, live, in, end - begin, NoSumsOfX{}, pre);
  for (int64_t j = 0; a.bias_ih && j < kGroup; ++j) {
    const int64_t row = j * a.H + unit;
    bias[j] = load(a.bias_ih + row, live) + load(a.bias_hh + row, live);
  }
  for (int64_t b = begin; b < end; ++b) {
    if (slot_of(a, b) < 0) {
      step_padding(a, unit, live, b);
      continue;
    }
    const Vec<A>(&sum)[kGroup] = pre[b - begin];
    step_cell<S>(a, unit, live, b,
                 {sum[0] + bias[0], sum[1] + bias[1], sum[2] + bias[2], sum[3] + bias[3]});
  }
}

// Calls run(unit, n) for units [begin, end), a vector at a time; the last vector first if a.backwards.
template <class S, class F>
LSTM_INLINE void in_vectors(const StepParams<S>& a, int64_t begin, int64_t end, const F& run) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  const int64_t vectors = (end - begin + lanes - 1) / lanes;
  for (int64_t k = 0; k < vectors; ++k) {
    const int64_t unit = begin + (a.backwards ? vectors - 1 - k : k) * lanes;
    run(unit, end - unit < lanes ? end - unit : lanes);
  }
}

template <class S>
void step_units(const StepParams<S>& a, int64_t begin, int64_t end) {
  if constexpr (kTiles<S>) return tile_step_units(a, begin, end);
  constexpr int64_t tile = kDotRows<S, Input<S>>;
  const int64_t row = (a.I + a.P) * int64_t(sizeof(Input<S>)),
                fit = heuristics::kNearInputBytes / row;
  const int64_t few = fit < 2 * tile ? tile : fit, most = few < kRowsAtOnce ? few : kRowsAtOnce;
  const int64_t blocks = (a.B + most - 1) / most;
  in_vectors(a, begin, end, [&](int64_t unit, int64_t live) LSTM_LAMBDA {
    for (int64_t n = 0; n < blocks; ++n)
      step_block(a, unit, live, a.B * n / blocks, a.B * (n + 1) / blocks);
  });
}

// h = hidden . weight_hr^T for rows [begin, end).
template <class S>
void step_project(const StepParams<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  Vec<A> h[kRowsAtOnce];
  for (int64_t b = begin; b < end; ++b) turn_inputs<S>(a.hidden + b * a.H, a.H);
  for (int64_t first = 0; first < a.P; first += kLanes<A>)
    for (int64_t b = begin; b < end; b += kRowsAtOnce) {
      const int64_t live = a.P - first < kLanes<A> ? a.P - first : kLanes<A>;
      const int64_t count = end - b < kRowsAtOnce ? end - b : kRowsAtOnce;
      dot_products<S, A>({a.weight_hr, a.H}, {a.weight_hr, 0}, {first, 1, kSide<A>, live},
                         a.hidden + b * a.H, count, h);
      for (int64_t r = 0; r < count; ++r)
        if (slot_of(a, b + r) >= 0) {
          store_hidden(a, first, b + r, h[r], live);
        } else {
          zero(a.h_n + (b + r) * a.P + first, live);
          zero(a.y + (b + r) * a.y_stride + first, live);
        }
    }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
