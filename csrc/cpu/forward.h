// Forward over a whole sequence.
//
// The first product takes several steps at once, about a hundred rows together: the inputs times the packed
// weight_ih, into memory that stays in the cache. Then, step by step and panel by panel, h_in (rows, P) times
// the packed weight_hh is added to these sums. The gates and cells follow while the sums are in L1, or in
// registers for a single row with few panels. Each panel of weights is read once for all rows. A call too
// short to repay packing reads the weights in place (gemv.h).
//
// Threads share the work by rows and never wait for each other. If rows are few or the weights large, they
// share it by hidden units: each member's weights then stay in its own cache, and the members meet once per
// step (twice with a projection) when h is complete. A member writes h, c and the outputs of its own units
// only. Before the members meet, the owner of each unit has already written the h that the step reads,
// including zeros after a reset.
#pragma once
#include "cpu/gemm.h"
#include "cpu/gemv.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// Elements of Acc<S> between rows of h before the projection.
template <class S>
constexpr int64_t hidden_row(int64_t H) {
  return kTiles<S> ? H + kTileSide : H;
}

// Gates, cells and hidden states of `count` vectors of units at step t, from the gates' sums. Vector k
// belongs to row row[k] and to the units from unit[k] on. Each stage runs for all vectors, so their long
// dependency chains overlap.
template <int count, class S>
LSTM_INLINE void cells_of(const ForwardParams<S>& a, int64_t t, const int64_t (&row)[count],
                          const int64_t (&unit)[count], const Gates<Vec<Acc<S>>> (&sum)[count],
                          Acc<S>* c, Acc<S>* hidden) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t H = a.H;
  const bool last_product = a.weight_hr == nullptr;
  Gates<V> gate[count];
  V cell[count], h[count];
#pragma GCC unroll 6
  for (int k = 0; k < count; ++k) gate[k] = activate<Math<A>, V>(sum[k]);
#pragma GCC unroll 6
  for (int k = 0; k < count; ++k)
    cell[k] = cell_state<Math<A>>(
        gate[k], load(static_cast<const A*>(c) + row[k] * H + unit[k], H - unit[k]));
#pragma GCC unroll 6
  for (int k = 0; k < count; ++k) {
    h[k] = hidden_state<Math<A>>(gate[k].o, cell[k]);
    if (last_product) h[k] = round_to<S>(h[k]);  // h stays exact before a projection
  }
#pragma GCC unroll 6
  for (int k = 0; k < count; ++k) {
    if (!is_live(a, t, row[k])) continue;
    const int64_t n = H - unit[k], place = row[k] * H + unit[k], step_row = t * a.B + row[k];
    store(c + place, cell[k], n);
    if (kPaired<S> && !last_product)  // input format of the projection: H factors a row
      store(reinterpret_cast<Input<S>*>(hidden + row[k] * hidden_row<S>(H)) + unit[k], h[k], n);
    else
      store(hidden + place, h[k], n);
    if (a.gates != nullptr) {
      S* out = a.gates + step_row * 4 * H + unit[k];
      store(out, gate[k].i, n);
      store(out + H, gate[k].f, n);
      store(out + 2 * H, gate[k].g, n);
      store(out + 3 * H, gate[k].o, n);
    }
    if (a.cells != nullptr) store(a.cells + step_row * H + unit[k], cell[k], n);
  }
}

// The same for `rows` rows from b on and count / rows vectors of units from `first_unit` on. The sums of
// consecutive panels are `panel` elements apart, each (.., rows, 4, lanes). In the last panel a gate has
// `last_lanes` lanes.
template <class S, int count>
LSTM_APART void forward_cells(const ForwardParams<S>& a, int64_t t, int64_t b, int rows,
                              int64_t first_unit, const Acc<S>* sums, int64_t panel,
                              int64_t last_lanes, Acc<S>* c, Acc<S>* hidden) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  Gates<Vec<A>> sum[count];
  int64_t row[count], unit[count];
  int r = 0, n = 0;
#pragma GCC unroll 6
  for (int k = 0; k < count; ++k) {
    const A* from = sums + n * panel + r * kGroup * lanes;
    const int64_t gate_lanes = k + rows >= count ? last_lanes : lanes;
    sum[k] = {load(from), load(from + gate_lanes), load(from + 2 * gate_lanes),
              load(from + 3 * gate_lanes)};
    row[k] = b + r;
    unit[k] = first_unit + n * lanes;
    if (++r == rows) {
      r = 0;
      ++n;
    }
  }
  cells_of<count>(a, t, row, unit, sum, c, hidden);
}

// One step of row b, with all its panels in one group. The sums never leave the registers, except where gates
// share vectors. `sums` holds the products of the inputs and starts with the first panel's gates.
template <class S, int N, int shared>
LSTM_APART void step_of_row(const ForwardParams<S>& a, int64_t t, int64_t b, const Acc<S>* sums,
                            int64_t panel_size, const Factor<S>* in, int64_t K,
                            const Factor<S>* pack, Acc<S>* c, Acc<S>* hidden) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  constexpr int C = kGroup * N + shared;
  Vec<A> product[1][C] = {};
  add_rows<A>(product, RowInputs<Factor<S>>{in, 0}, K, packed_panel(pack, K, 0));
  Vec<A>(&sum)[C] = product[0];
#pragma GCC unroll 18
  for (int j = 0; j < C; ++j) sum[j] += load(sums + j / kGroup * panel_size + j % kGroup * lanes);
  if constexpr (shared > 0) {
    A apart[kGroup * (N + 1) * lanes];
#pragma GCC unroll 20
    for (int j = 0; j < kGroup * (N + 1); ++j) store(apart + j * lanes, j < C ? sum[j] : Vec<A>{});
    forward_cells<S, N + 1>(a, t, b, 1, 0, apart, kGroup * lanes, shared * lanes / kGroup, c,
                            hidden);
  } else {
    Gates<Vec<A>> gate[N];
    int64_t row[N], unit[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      gate[n] = {sum[kGroup * n], sum[kGroup * n + 1], sum[kGroup * n + 2], sum[kGroup * n + 3]};
      row[n] = b;
      unit[n] = n * lanes;
    }
    cells_of<N>(a, t, row, unit, gate, c, hidden);
  }
}

// The weights as columns for the products with x (rows, I), h (rows, P) and hidden (rows, H).
template <class S>
Packed<S, 3> forward_weights(const ForwardParams<S>& a) {
  return {{{a.weight_ih, a.I, 4 * a.H, 1, a.I, true},
           {a.weight_hh, a.P, 4 * a.H, 1, a.P, true},
           {a.weight_hr, a.H, a.weight_hr ? a.P : 0, 1, a.H, false}}};
}
// The same without weight_ih.
template <class S>
Packed<S, 3> recurrent_weights(const ForwardParams<S>& a) {
  Packed<S, 3> weights = forward_weights(a);
  weights.w[0].N = 0;
  return weights;
}

// Reading in place is faster up to some dozens of rows and steps (fewer for smaller layers), and for few rows
// of weights that fit in no cache: docs/internals/performance/.
template <class S>
Weights forward_weights_are(const ForwardParams<S>& a, InPlace may_be) {
  if (a.weight_hr) return Weights::packed;  // the projection's product needs packed weights
  const int64_t of_h = 4 * a.H * a.P * int64_t(sizeof(S)),
                bytes = of_h + 4 * a.H * a.I * int64_t(sizeof(S));
  const int64_t steps = a.T * a.B;
  const bool quicker =
      (steps <= heuristics::kInPlaceSteps && steps <= bytes / heuristics::kInPlaceBytes) ||
      steps <= bytes / heuristics::kInPlaceLargeBytes || of_h >= heuristics::kInPlaceRecurrentBytes;
  const bool wanted = may_be == InPlace::always || (may_be == InPlace::if_quicker && quicker);
  const bool as_they_are = sizeof(Input<S>) == sizeof(S);  // products take S itself
  if (wanted && as_they_are && !kTiles<S> && a.B <= heuristics::kInPlaceRows)
    return Weights::in_place;
  return a.T == 1 ? Weights::packed_on_the_fly : Weights::packed;
}

// One of the two weight matrices of the gates, and how it is read. `pack` holds the packed weights, or is
// null; then `scratch` has room for one panel. Input rows are `stride` elements of Input<S> apart.
template <class S>
struct GateWeights {
  Weights are;
  const Columns<S>& w;
  const Factor<S>* pack;
  Factor<S>* scratch;

  int64_t stride() const { return are == Weights::in_place ? w.K : input_stride<S>(w.K); }
  int64_t gate_lanes(int64_t panel) const {
    return packed_before(are) ? w.gate_lanes(panel) : kLanes<Acc<S>>;
  }
  // The number of vectors that the gates of the last panel share; 0 if that panel is whole.
  int64_t shared(const Range& panels) const {
    const int64_t each = panels.size() > 0 ? gate_lanes(panels.end - 1) : kLanes<Acc<S>>;
    return kGroup * each / kLanes<Acc<S>> % kGroup;
  }
};

using heuristics::kTurnedRows;

// sums (panels, rows, 4, lanes) += rows [begin, end) of `in` times the four gates of the panels of
// `together`, from `panel` on. More than one panel requires weights that are packed before.
template <class S, class Wanted>
LSTM_APART void add_gates(const Sums<Acc<S>>& sums, const GateWeights<S>& weights,
                          const Input<S>* in, int64_t begin, int64_t end, int64_t panel,
                          const Together& together, const Wanted& wanted) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  const Columns<S>& w = weights.w;
  if (weights.are == Weights::in_place)
    return add_gate_dots(sums.data, w.data, w.K, w.units(), in, begin, end, panel * lanes);
  const bool on_the_fly = weights.pack == nullptr;
  const auto* factors_in = reinterpret_cast<const Factor<S>*>(in);
  const int64_t stride = weights.stride() / kNumbers<Factor<S>>;
  if (weights.are == Weights::packed_on_the_fly && !kTiles<S> && end - begin <= kTurnedRows)
    return with_rows<kTurnedRows>(end - begin, [&](auto rows) LSTM_LAMBDA {
      if (!wanted(rows, begin)) return;
      add_turned<decltype(rows)::rows>(Sums<Acc<S>>{sums.data + begin * sums.row, sums.row, 0, 0},
                                       factors_in + begin * stride, stride, w, panel * lanes);
    });
  if (on_the_fly) pack_panel(weights.scratch, w, panel, weights.gate_lanes(panel));
  add_panels(sums, factors_in, stride, begin, end, w.depth(),
             on_the_fly ? packed_panel(static_cast<const Factor<S>*>(weights.scratch), w.depth(), 0)
                        : packed_panel(weights.pack, w.depth(), panel),
             together, wanted);
}

// Copies rows of K numbers into the input format of products, with rows `stride` apart.
template <class S>
LSTM_INLINE void fill_inputs(Input<S>* to, int64_t stride, const S* from, int64_t rows, int64_t K) {
  const auto copy = [&](int64_t n) LSTM_LAMBDA {
    if constexpr (sizeof(Input<S>) == sizeof(S))
      __builtin_memcpy(static_cast<void*>(to), from, n * sizeof(S));
    else
      load_rows(to, from, n);
  };
  if (stride == K) return copy(rows * K);
  for (int64_t b = 0; b < rows; ++b, to += stride, from += K) {
    copy(K);
    zero(to + K, stride - K);
  }
}

// The inputs of `count` steps from `step` on (in processing order), (count * rows, I), times some panels of
// weight_ih, plus both biases, into sums (panels, count * rows, 4, lanes).
template <class S>
void input_products(const ForwardParams<S>& a, const Part& part, int64_t step, int64_t count,
                    const Range& panels, const GateWeights<S>& weights, Input<S>* in,
                    Acc<S>* sums) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, width = kGroup * lanes;
  const int64_t rows = part.row_end - part.row_begin, all = count * rows;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t t = a.reverse ? a.T - 1 - step - s : step + s;
    fill_inputs(in + s * rows * weights.stride(), weights.stride(),
                a.x + (t * a.B + part.row_begin) * a.I, rows, a.I);
  }
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const int64_t unit = p * lanes, n = a.H - unit, gate_lanes = weights.gate_lanes(p);
    Vec<A> bias[kGroup] = {};
    for (int64_t j = 0; a.bias_ih && j < kGroup; ++j)
      bias[j] = load(a.bias_ih + j * a.H + unit, n) + load(a.bias_hh + j * a.H + unit, n);
    A* to = sums + (p - panels.begin) * all * width;
    for (int64_t row = 0; row < all; ++row)
      for (int64_t j = 0; j < kGroup; ++j) store(to + row * width + j * gate_lanes, bias[j]);
  }
  for (int64_t p = panels.begin; p < panels.end; ++p)
    add_gates(Sums<A>{sums + (p - panels.begin) * all * width, width,
                      kGroup * weights.gate_lanes(p), all * width},
              weights, in, 0, all, p, Together{1, 0}, Always{});
}

// Whether the recurrent product reads h itself. If not, it reads a converted copy in `masked`, with rows
// `stride` apart.
template <class S>
LSTM_INLINE bool takes_h(const ForwardParams<S>& a, int64_t stride) {
  return a.recurrent_mask == nullptr && !kPaired<S> && stride == a.P;
}

// Prepares a member's part of h and c for step t, from their values after the previous step.
template <class S>
LSTM_INLINE void prepare(const ForwardParams<S>& a, const Part& part, int64_t t, const Range& units,
                         const Range& columns, Acc<S>* h, Acc<S>* c, Input<S>* masked,
                         int64_t stride) {
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    if (is_live(a, t, b) && is_reset(a, t, b)) {  // no product: 0 * NaN would stay NaN
      zero(h + b * a.P + columns.begin, columns.size());
      zero(c + b * a.H + units.begin, units.size());
    }
    if (takes_h(a, stride)) continue;
    Input<S>* target = masked + b * stride + columns.begin;
    const int64_t first = b * a.P + columns.begin, n = columns.size();
    for (int64_t k = 0; k < n; k += kLanes<Acc<S>>) {
      Vec<Acc<S>> v = load(static_cast<const Acc<S>*>(h) + first + k, n - k);
      if (a.recurrent_mask) v *= load(a.recurrent_mask + first + k, n - k);
      store(target + k, v, n - k);
    }
    if (columns.end == a.P) zero(masked + b * stride + a.P, stride - a.P);
  }
}

// Writes the outputs of step t in a member's part, and carries the state of ended rows over.
template <class S>
LSTM_INLINE void finish(const ForwardParams<S>& a, const Part& part, int64_t t, const Range& units,
                        const Range& columns, const Acc<S>* h, Acc<S>* h_next) {
  const int64_t n = columns.size();
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    S* y = a.y + (t * a.B + b) * a.P + columns.begin;
    Acc<S>* next = h_next + b * a.P + columns.begin;
    if (is_live(a, t, b)) {
      store_rows(y, static_cast<const Acc<S>*>(next), n);
      if (a.weight_hr) load_rows(next, static_cast<const S*>(y), n);  // as rounded
      continue;
    }
    zero(y, n);
    __builtin_memcpy(next, h + b * a.P + columns.begin, n * sizeof(Acc<S>));
    for (int64_t j = 0; a.gates && j < kGroup; ++j)
      zero(a.gates + ((t * a.B + b) * kGroup + j) * a.H + units.begin, units.size());
    if (a.cells) zero(a.cells + (t * a.B + b) * a.H + units.begin, units.size());
  }
}

template <class S>
void forward_part(const ForwardParams<S>& a, Weights are, const Acc<S>* packed_weights,
                  Acc<S>* work, Acc<S>* member_scratch, const Part& part, Barrier& barrier) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, width = kGroup * lanes;
  const TilesInUse<S> tiles;
  const int64_t H = a.H, P = a.P, begin = part.row_begin, end = part.row_end, rows = end - begin;
  const Packed<S, 3> weights = forward_weights(a);
  const Range panels = share(part, weights.w[1].panels());
  const Range units = times(panels, lanes, H);
  const Range projected = share(part, weights.w[2].panels());
  const Range columns = a.weight_hr ? times(projected, width, P) : units;
  const int64_t masked_size = a.B * (P + kMostSpread);
  A *h = work, *h_next = h + a.B * P, *masked = h_next + a.B * P;
  A *masked_next = masked + masked_size, *c = masked_next + masked_size, *hidden = c + a.B * H;
  for (int64_t b = begin; b < end; ++b) {
    load_rows(h + b * P + columns.begin, a.h0 + b * P + columns.begin, columns.size());
    load_rows(c + b * H + units.begin, a.c0 + b * H + units.begin, units.size());
    if (a.weight_hr)
      zero(hidden + b * hidden_row<S>(H) + units.begin,
           (units.end < H ? units.end : hidden_row<S>(H)) - units.begin);
  }

  const int64_t at_once = input_steps(a.T, rows, kTiles<S>);
  const auto* pack = reinterpret_cast<const Factor<S>*>(packed_weights);
  auto* in = reinterpret_cast<Input<S>*>(member_scratch);
  A* x_sums = member_scratch + at_once * rows * (a.I + kMostSpread);
  auto* scratch = reinterpret_cast<Factor<S>*>(x_sums + at_once * rows * panels.size() * width);
  const bool packed = packed_before(are), with_inputs = are == Weights::packed;
  const Factor<S>* pack_h = with_inputs ? pack + weights.size(1) : pack;
  const GateWeights<S> of_inputs = {are, weights.w[0], with_inputs ? pack : nullptr, scratch};
  const GateWeights<S> of_h = {are, weights.w[1], packed ? pack_h : nullptr, scratch};
  const Groups groups(panels, of_h.shared(panels), packed ? rows : kTileRows);
  const bool one_group = groups.count == 1 && (groups.joins || groups.shared == 0);
  const bool row_alone = packed && rows == 1 && part.members == 1 && !a.weight_hr && one_group;
  const auto time_of = [&](int64_t step) LSTM_LAMBDA { return a.reverse ? a.T - 1 - step : step; };
  const auto begin_step = [&](int64_t t) LSTM_LAMBDA {  // input of the recurrent product
    auto* product_h = reinterpret_cast<Input<S>*>(masked);
    prepare(a, part, t, units, columns, h, c, product_h, of_h.stride());
    barrier.wait(part.members);
    if constexpr (std::is_same_v<Input<S>, A>)
      if (takes_h(a, of_h.stride())) product_h = h;
    return product_h;
  };
  const auto end_step = [&](int64_t t) LSTM_LAMBDA {
    finish(a, part, t, units, columns, static_cast<const A*>(h), h_next);
    swap(h, h_next);
    swap(masked, masked_next);
  };
  for (int64_t step = 0; step < a.T; ++step) {
    const int64_t first = step / at_once * at_once;
    const int64_t count = a.T - first < at_once ? a.T - first : at_once;
    if (step == first) input_products(a, part, step, count, panels, of_inputs, in, x_sums);
    if constexpr (!kTiles<S>)
      if (row_alone) {  // the panels are the same for all of these steps
        const int64_t depth = of_h.w.depth(), at = begin * of_h.stride();
        with_few(1, {groups.whole, groups.shared}, [&](auto, auto whole, auto shared) LSTM_LAMBDA {
          for (; step < first + count; ++step) {
            const int64_t t = time_of(step);
            const Input<S>* from = begin_step(t) + at;
            if (is_live(a, t, begin))
              step_of_row<S, decltype(whole)::rows, decltype(shared)::rows>(
                  a, t, begin, x_sums + (step - first) * width, count * width,
                  reinterpret_cast<const Factor<S>*>(from), depth, of_h.pack, c, h_next);
            end_step(t);
          }
        });
        --step;
        continue;
      }
    const int64_t t = time_of(step), panel_size = count * rows * width;
    const Input<S>* product_h = begin_step(t);
    const AnyLive<S> live = {a, t};
    A* out = a.weight_hr ? hidden : h_next;
    const auto some_panels = [&](int64_t p, const Together& together) LSTM_LAMBDA {
      const int64_t gate_lanes = of_h.gate_lanes(p);
      A* sums = x_sums + (p - panels.begin) * panel_size + (step - first) * rows * width;
      add_gates(Sums<A>{sums - begin * width, width, kGroup * gate_lanes, panel_size}, of_h,
                product_h, begin, end, p, together, live);
      const auto cells = [&](auto tile, auto vectors, int64_t b, int64_t last_lanes) LSTM_LAMBDA {
        constexpr int R = decltype(tile)::rows, all = R * decltype(vectors)::rows;
        if (live(tile, b))
          forward_cells<S, all>(a, t, b, R, p * lanes, sums + (b - begin) * width, panel_size,
                                last_lanes, c, out);
      };
      if (together.several())
        with_few(rows, together, [&](auto tile, auto whole, auto shared) LSTM_LAMBDA {
          constexpr int last = decltype(shared)::rows, all = decltype(whole)::rows + (last > 0);
          cells(tile, Rows<all>{}, begin, last > 0 ? last * lanes / kGroup : lanes);
        });
      else
        in_tiles<kCellRows>(begin, end, [&](auto tile, int64_t b) LSTM_LAMBDA {
          cells(tile, Rows<1>{}, b, gate_lanes);
        });
    };
    const bool backwards = step % 2 == 1;  // the panels read last are still in the cache
    groups.each(backwards, some_panels);
    if (a.weight_hr) {
      barrier.wait(part.members);
      plain_product(h_next, P, reinterpret_cast<const Factor<S>*>(hidden), hidden_row<S>(H), begin,
                    end, H, P, projected, pack_h + weights.w[1].pack_size(),
                    static_cast<const S*>(nullptr), live);
    }
    end_step(t);
  }
  for (int64_t b = begin; b < end; ++b) {
    store_rows(a.h_n + b * P + columns.begin, static_cast<const A*>(h) + b * P + columns.begin,
               columns.size());
    store_rows(a.c_n + b * H + units.begin, static_cast<const A*>(c) + b * H + units.begin,
               units.size());
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
