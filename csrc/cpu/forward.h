// The recurrence of a whole sequence. Included only by isa_*.cpp, after sequence.h.
//
// Each step: h_in (rows, P) times the packed weight_hh, then gates and cell at once from the sums in
// registers: the sums never reach memory, and a panel of weights is read once for all rows.
//
// The work is shared out by rows, which never wait for each other; or, where rows are few or the
// weights large, by hidden units: then each member's weights stay in its own cache, and the members
// meet once a step (twice with a projection) when h is complete. A member writes h, c and outputs of
// its own units only. What a step needs to find in h, zeros after a reset, its owner has put there
// before they met.

// Gates, cells and hidden states of R rows from b at step t and one vector of units, from the recurrent
// sums. Stage by stage for all rows, whose long chains of operations then run side by side.
template <class S, int R>
LSTM_INLINE void forward_cells(const ForwardParams<S>& a, int64_t t, int64_t b, int64_t unit,
                               const Vec<Acc<S>> (&sum)[R][kGroup], Acc<S>* c, Acc<S>* hidden,
                               bool last_product) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t n = a.H - unit, H = a.H;  // n: lanes that exist
  Gates<V> gate[R];
  V cell[R], h[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const A* x = a.gates_x + (t * a.B + b + r) * 4 * H + unit;
    gate[r] =
        activate<Math<A>, V>({load(x, n) + sum[r][0], load(x + H, n) + sum[r][1],
                              load(x + 2 * H, n) + sum[r][2], load(x + 3 * H, n) + sum[r][3]});
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
    cell[r] = cell_state(gate[r], load(static_cast<const A*>(c) + (b + r) * H + unit, n));
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

// The weights as the columns of the products that h (rows, P) and hidden (rows, H) go into.
template <class S>
Packed<S> forward_weights(const SequenceParams<S>& a) {
  return {{a.weight_hh, a.P, 4 * a.H, 1, a.P, true},
          {a.weight_hr, a.H, a.weight_hr ? a.P : 0, 1, a.H, false}};
}

// Brings a member's part of h and c, as they come from the step before, to what step t starts from.
template <class S>
LSTM_INLINE void prepare(const ForwardParams<S>& a, const Part& part, int64_t t, const Range& units,
                         const Range& columns, Acc<S>* h, Acc<S>* c, Acc<S>* masked) {
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    if (is_live(a, t, b) && is_reset(a, t, b)) {  // selects: 0 * NaN would stay NaN
      zero(h + b * a.P + columns.begin, columns.size());
      zero(c + b * a.H + units.begin, units.size());
    }
    if (a.recurrent_mask)
      for (int64_t k = b * a.P + columns.begin; k < b * a.P + columns.end; ++k)
        masked[k] = h[k] * widen(a.recurrent_mask[k]);
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
void forward_part(const ForwardParams<S>& a, const Acc<S>* pack, Acc<S>* work, const Part& part,
                  Barrier& barrier) {
  using A = Acc<S>;
  const int64_t H = a.H, P = a.P, rows = part.row_begin, end = part.row_end;
  const Packed<S> weights = forward_weights(static_cast<const SequenceParams<S>&>(a));
  const Range panels = share(part, weights.hh.panels());
  const Range units = times(panels, kLanes<A>, H);
  const Range projected = share(part, weights.hr.panels());
  const Range columns = a.weight_hr ? times(projected, kGroup * kLanes<A>, P) : units;
  A *h = work, *h_next = h + a.B * P, *masked = h_next + a.B * P, *masked_next = masked + a.B * P;
  A *c = masked_next + a.B * P, *hidden = c + a.B * H;
  for (int64_t b = rows; b < end; ++b) {
    load_rows(h + b * P + columns.begin, a.h0 + b * P + columns.begin, columns.size());
    load_rows(c + b * H + units.begin, a.c0 + b * H + units.begin, units.size());
    if (a.weight_hr) zero(hidden + b * H + units.begin, units.size());
  }

  for (int64_t step = 0; step < a.T; ++step) {
    const int64_t t = a.reverse ? a.T - 1 - step : step;
    prepare(a, part, t, units, columns, h, c, masked);
    barrier.wait(part.members);
    const AnyLive<S> live = {a, t};
    const A* h_in = a.recurrent_mask ? masked : h;
    A* out = a.weight_hr ? hidden : h_next;
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const auto cells = [&](auto tile, int64_t b, const auto& sum) LSTM_LAMBDA {
        forward_cells<S, decltype(tile)::rows>(a, t, b, p * kLanes<A>, sum, c, out,
                                               a.weight_hr == nullptr);
      };
      panel_product(h_in, P, rows, end, P, pack + p * P * kGroup * kLanes<A>, live, cells);
    }
    if (a.weight_hr) {
      barrier.wait(part.members);
      plain_product(h_next, P, static_cast<const A*>(hidden), H, rows, end, H, P, projected,
                    pack + weights.hh.pack_size(), live);
    }
    finish(a, part, t, units, columns, static_cast<const A*>(h), h_next);
    swap(h, h_next);
    swap(masked, masked_next);
  }
  for (int64_t b = rows; b < end; ++b) {
    store_rows(a.h_n + b * P + columns.begin, static_cast<const A*>(h) + b * P + columns.begin,
               columns.size());
    store_rows(a.c_n + b * H + units.begin, static_cast<const A*>(c) + b * H + units.begin,
               units.size());
  }
}
