// A whole sequence forward. Included only by isa_*.cpp, after sequence.h.
//
// For some steps at once, of about a hundred rows together: the inputs times the packed weight_ih, into
// memory that stays in the cache. Then step by step, panel by panel, h_in (rows, P) times the packed
// weight_hh is added, and gates and cells follow from the sums while those are in L1. A panel of weights
// is read once for all rows. A call too short to be worth the packing reads the weights where they lie
// (dots.h), and so does bfloat16 where the processor multiplies pairs.
//
// The work is shared out by rows, which never wait for each other; or, where rows are few or the
// weights large, by hidden units: then each member's weights stay in its own cache, and the members
// meet once a step (twice with a projection) when h is complete. A member writes h, c and outputs of
// its own units only. What a step needs to find in h, zeros after a reset, its owner has put there
// before they met.

// Gates, cells and hidden states of R rows from b at step t and one vector of units, from the sums (R, 4,
// lanes). Stage by stage for all rows, whose long chains of operations then run side by side.
template <class S, int R>
LSTM_APART void forward_cells(const ForwardParams<S>& a, int64_t t, int64_t b, int64_t unit,
                              const Acc<S>* sums, Acc<S>* c, Acc<S>* hidden, bool last_product) {
  using A = Acc<S>;
  using V = Vec<A>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t n = a.H - unit, H = a.H;  // n: lanes that exist
  Gates<V> gate[R];
  V cell[R], h[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const A* sum = sums + r * kGroup * lanes;
    gate[r] = activate<Math<A>, V>(
        {load(sum), load(sum + lanes), load(sum + 2 * lanes), load(sum + 3 * lanes)});
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
    cell[r] = cell_state<Math<A>>(gate[r], load(static_cast<const A*>(c) + (b + r) * H + unit, n));
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    h[r] = hidden_state<Math<A>>(gate[r].o, cell[r]);
    if (last_product) h[r] = round_to<S>(h[r]);  // before a projection h stays exact
  }
  for (int r = 0; r < R; ++r) {
    if (!is_live(a, t, b + r)) continue;
    const int64_t row = b + r, step_row = t * a.B + row;
    store(c + row * H + unit, cell[r], n);
    store(hidden + row * H + unit, h[r], n);
    if (a.gates != nullptr) {
      S* out = a.gates + step_row * 4 * H + unit;
      store(out, gate[r].i, n);
      store(out + H, gate[r].f, n);
      store(out + 2 * H, gate[r].g, n);
      store(out + 3 * H, gate[r].o, n);
    }
    if (a.cells != nullptr) store(a.cells + step_row * H + unit, cell[r], n);
  }
}

// The weights as the columns of the products that x (rows, I), h (rows, P) and hidden (rows, H) go into.
template <class S>
Packed<S, 3> forward_weights(const ForwardParams<S>& a) {
  return {{{a.weight_ih, a.I, 4 * a.H, 1, a.I, true},
           {a.weight_hh, a.P, 4 * a.H, 1, a.P, true},
           {a.weight_hr, a.H, a.weight_hr ? a.P : 0, 1, a.H, false}}};
}

// Reading in place is worth it up to some dozens of rows and steps, and for few rows of weights that fit
// no cache: docs/performance.md.
template <class S>
Weights forward_weights_are(const ForwardParams<S>& a, bool may_be_in_place) {
  constexpr int64_t kLarge = int64_t{8} << 20;
  const bool large = 4 * a.H * a.P * int64_t(sizeof(S)) >= kLarge;
  if (a.weight_hr) return Weights::packed;  // whose product is there for packed ones only
  if (kPairs && sizeof(S) < sizeof(Acc<S>)) return Weights::in_place;
  if (may_be_in_place && sizeof(S) == sizeof(Acc<S>) && a.B <= 4 && (a.T * a.B <= 64 || large))
    return Weights::in_place;
  return a.T == 1 ? Weights::packed_in_passing : Weights::packed;
}

// One of the two matrices of the gates, and how it is read; `room` for one panel that is packed in passing.
template <class S>
struct GateWeights {
  Weights are;
  const Columns<S>& w;
  const Acc<S>* pack;
  Acc<S>* room;
};

// sums (rows, 4, lanes) += rows [begin, end) of in (rows, K) times the four gates of one vector of units.
template <class S, class Wanted>
LSTM_INLINE void add_gates(Acc<S>* sums, const GateWeights<S>& weights, const void* in,
                           int64_t begin, int64_t end, int64_t panel, const Wanted& wanted) {
  constexpr int64_t lanes = kLanes<Acc<S>>, width = kGroup * lanes;
  const Columns<S>& w = weights.w;
  if (weights.are == Weights::in_place)
    return add_gate_dots(sums, w.data, w.K, w.units(), static_cast<const Input<S>*>(in), begin, end,
                         panel * lanes);
  const bool passing = weights.are == Weights::packed_in_passing;
  if (passing) pack_panel(weights.room, w, panel);
  add_panel(
      sums, width, width, static_cast<const Acc<S>*>(in), w.K, begin, end, w.K,
      passing ? packed_panel<Acc<S>>(weights.room, w.K, 0) : packed_panel(weights.pack, w.K, panel),
      wanted);
}

// The inputs of `count` steps from `step` on (in the order of processing), (count * rows, I), times some
// panels of weight_ih, plus both biases, into sums (panels, count * rows, 4, lanes).
template <class S>
void input_products(const ForwardParams<S>& a, const Part& part, int64_t step, int64_t count,
                    const Range& panels, const GateWeights<S>& weights, Acc<S>* in, Acc<S>* sums) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, width = kGroup * lanes;
  const int64_t rows = part.row_end - part.row_begin;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t t = a.reverse ? a.T - 1 - step - s : step + s;
    const S* x = a.x + (t * a.B + part.row_begin) * a.I;
    if (weights.are != Weights::in_place)
      load_rows(in + s * rows * a.I, x, rows * a.I);
    else
      load_inputs(reinterpret_cast<Input<S>*>(in) + s * rows * a.I, x, rows * a.I);
  }
  for (int64_t p = panels.begin; p < panels.end; ++p, sums += count * rows * width) {
    const int64_t unit = p * lanes, n = a.H - unit;
    Vec<A> bias[kGroup] = {};
    for (int64_t j = 0; a.bias_ih && j < kGroup; ++j)
      bias[j] = load(a.bias_ih + j * a.H + unit, n) + load(a.bias_hh + j * a.H + unit, n);
    for (int64_t row = 0; row < count * rows; ++row)
      for (int64_t j = 0; j < kGroup; ++j) store(sums + row * width + j * lanes, bias[j]);
    add_gates(sums, weights, in, 0, count * rows, p, Always{});
  }
}

// Whether the recurrent product takes h as it is, or another form of it, (B, P) in `masked`.
template <class S>
LSTM_INLINE bool takes_h(const ForwardParams<S>& a, Weights are) {
  return a.recurrent_mask == nullptr &&
         (are != Weights::in_place || sizeof(Input<S>) == sizeof(Acc<S>));
}

// Brings a member's part of h and c, as they come from the step before, to what step t starts from.
template <class S>
LSTM_INLINE void prepare(const ForwardParams<S>& a, const Part& part, int64_t t, const Range& units,
                         const Range& columns, Acc<S>* h, Acc<S>* c, Acc<S>* masked, Weights are) {
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    if (is_live(a, t, b) && is_reset(a, t, b)) {  // selects: 0 * NaN would stay NaN
      zero(h + b * a.P + columns.begin, columns.size());
      zero(c + b * a.H + units.begin, units.size());
    }
    if (takes_h(a, are)) continue;
    const int64_t first = b * a.P + columns.begin, n = columns.size();
    const auto fill = [&](auto* target) LSTM_LAMBDA {
      for (int64_t k = 0; k < n; k += kLanes<Acc<S>>) {
        Vec<Acc<S>> v = load(static_cast<const Acc<S>*>(h) + first + k, n - k);
        if (a.recurrent_mask) v *= load(a.recurrent_mask + first + k, n - k);
        store(target + first + k, v, n - k);
      }
    };
    if (are != Weights::in_place)
      fill(masked);
    else
      fill(reinterpret_cast<Input<S>*>(masked));
  }
}

// The outputs of step t in a member's part, and the state of rows that have ended.
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
void forward_part(const ForwardParams<S>& a, Weights are, const Acc<S>* pack, Acc<S>* work,
                  Acc<S>* own, const Part& part, Barrier& barrier) {
  using A = Acc<S>;
  constexpr int64_t width = kGroup * kLanes<A>;
  const int64_t H = a.H, P = a.P, begin = part.row_begin, end = part.row_end, rows = end - begin;
  const Packed<S, 3> weights = forward_weights(a);
  const Range panels = share(part, weights.w[1].panels());
  const Range units = times(panels, kLanes<A>, H);
  const Range projected = share(part, weights.w[2].panels());
  const Range columns = a.weight_hr ? times(projected, width, P) : units;
  A *h = work, *h_next = h + a.B * P, *masked = h_next + a.B * P, *masked_next = masked + a.B * P;
  A *c = masked_next + a.B * P, *hidden = c + a.B * H;
  for (int64_t b = begin; b < end; ++b) {
    load_rows(h + b * P + columns.begin, a.h0 + b * P + columns.begin, columns.size());
    load_rows(c + b * H + units.begin, a.c0 + b * H + units.begin, units.size());
    if (a.weight_hr) zero(hidden + b * H + units.begin, units.size());
  }

  const int64_t at_once = input_steps(a.T, rows);
  A *sums_x = own + at_once * rows * a.I, *room = sums_x + at_once * rows * panels.size() * width;
  const bool packed = are == Weights::packed;
  const GateWeights<S> of_inputs = {are, weights.w[0], packed ? pack : nullptr, room};
  const GateWeights<S> of_h = {are, weights.w[1], packed ? pack + weights.size(1) : nullptr, room};
  for (int64_t step = 0; step < a.T; ++step) {
    const int64_t first = step / at_once * at_once;
    const int64_t count = a.T - first < at_once ? a.T - first : at_once;
    if (step == first) input_products(a, part, step, count, panels, of_inputs, own, sums_x);
    const int64_t t = a.reverse ? a.T - 1 - step : step;
    prepare(a, part, t, units, columns, h, c, masked, are);
    barrier.wait(part.members);
    const AnyLive<S> live = {a, t};
    const A* h_in = takes_h(a, are) ? h : masked;
    A* out = a.weight_hr ? hidden : h_next;
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      A* sums = sums_x + ((p - panels.begin) * count + step - first) * rows * width;
      add_gates(sums - begin * width, of_h, h_in, begin, end, p, live);
      const auto cells = [&](auto tile, int64_t b) LSTM_LAMBDA {
        if (live(tile, b))
          forward_cells<S, decltype(tile)::rows>(a, t, b, p * kLanes<A>, sums + (b - begin) * width,
                                                 c, out, a.weight_hr == nullptr);
      };
      in_tiles<kCellRows>(begin, end, cells);
    }
    if (a.weight_hr) {
      barrier.wait(part.members);
      plain_product(h_next, P, static_cast<const A*>(hidden), H, begin, end, H, P, projected,
                    pack + weights.size(2), static_cast<const S*>(nullptr), live);
    }
    finish(a, part, t, units, columns, static_cast<const A*>(h), h_next);
    swap(h, h_next);
    swap(masked, masked_next);
  }
  for (int64_t b = begin; b < end; ++b) {
    store_rows(a.h_n + b * P + columns.begin, static_cast<const A*>(h) + b * P + columns.begin,
               columns.size());
    store_rows(a.c_n + b * H + units.begin, static_cast<const A*>(c) + b * H + units.begin,
               units.size());
  }
}
