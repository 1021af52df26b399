// T = 1 for one layer, in place on the resident state: matrix-vector work.
// Included only by isa_*.cpp, after sequence.h. Shapes: params.h.
//
// The weights are read once, where they lie, in torch.nn.LSTM's own row-major layout: nothing is kept
// from call to call, so nothing can be stale. Few rows: a unit's four gates are eight dot products
// (four rows of weight_ih with x, four of weight_hh with h), for up to kDotRows batch rows per read.
// More rows: the weights of one vector of units become a panel in L1 that all rows go through.

constexpr int kDotRows = 2;
constexpr int64_t kPanelFrom = 5;  // rows from which turning the weights in L1 pays

// The slot of a row; -1: a padding row.
template <class S>
LSTM_INLINE int64_t slot_of(const StepParams<S>& a, int64_t b) {
  return a.slots ? a.slots[b] : b;
}
// A row that starts at zero never reads its old state, which may hold NaN.
template <class S>
LSTM_INLINE bool starts_at_zero(const StepParams<S>& a, int64_t b) {
  return a.from_zero || (a.reset && a.reset[b]);
}

// sum[r][j] += weight[j * H + unit] . in[r], for four gates and R rows (in[r] null: zero).
template <class S, int R>
LSTM_INLINE void gate_dots(Acc<S> (&sum)[R][4], const S* weight, int64_t H, int64_t unit, int64_t K,
                           const S* const (&in)[R]) {
  using A = Acc<S>;
  using V = Vec<A>;
  constexpr int64_t lanes = kLanes<A>;
  V partial[R][4];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j) partial[r][j] = V{};
  for (int64_t k = 0; k < K; k += lanes) {
    V x[R];
    for (int r = 0; r < R; ++r) x[r] = in[r] ? load(in[r] + k, K - k) : V{};
    for (int j = 0; j < 4; ++j) {
      const V w = load(weight + (j * H + unit) * K + k, K - k);
      for (int r = 0; r < R; ++r) partial[r][j] += w * x[r];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < 4; ++j)
      for (int64_t l = 0; l < lanes; ++l) sum[r][j] += partial[r][j][l];
}

template <class S>
void step_cell(const StepParams<S>& a, int64_t unit, int64_t b, const Gates<Vec<Acc<S>>>& pre) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t n = a.H - unit < kLanes<A> ? a.H - unit : kLanes<A>;
  A* c = a.c + slot_of(a, b) * a.H + unit;
  const Gates<V> gate = activate<Math<A>, V>(pre);
  const V cell = cell_state(gate, starts_at_zero(a, b) ? V{} : load(static_cast<const A*>(c), n));
  const V h = hidden_state<Math<A>>(gate.o, cell);
  store(c, cell, n);
  store(a.c_n + b * a.H + unit, cell, n);
  if (a.weight_hr) {
    store(a.hidden + b * a.H + unit, h, n);
  } else {
    store(a.h_n + b * a.P + unit, h, n);
    store(a.y + b * a.y_stride + unit, h, n);
  }
}

// One vector of units for R rows from b. Padding rows are computed from zeros and not stored.
template <class S, int R>
LSTM_INLINE void step_tile(const StepParams<S>& a, int64_t block, int64_t b) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t first = block * lanes;
  const int64_t n = a.H - first < lanes ? a.H - first : lanes;
  const S *x[R], *h[R];
  for (int r = 0; r < R; ++r) {
    const bool padding = slot_of(a, b + r) < 0;
    x[r] = padding ? nullptr : a.x + (b + r) * a.x_stride;
    h[r] = padding || starts_at_zero(a, b + r) ? nullptr : a.h + slot_of(a, b + r) * a.P;
  }
  A pre[R][4][lanes] = {};
  for (int64_t l = 0; l < n; ++l) {
    const int64_t unit = first + l;
    A sum[R][4];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 4; ++j)
        sum[r][j] =
            a.bias_ih ? widen(a.bias_ih[j * a.H + unit]) + widen(a.bias_hh[j * a.H + unit]) : 0;
    gate_dots<S, R>(sum, a.weight_ih, a.H, unit, a.I, x);
    gate_dots<S, R>(sum, a.weight_hh, a.H, unit, a.P, h);
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 4; ++j) pre[r][j][l] = sum[r][j];
  }
  for (int r = 0; r < R; ++r)
    if (slot_of(a, b + r) >= 0)
      step_cell<S>(
          a, first, b + r,
          {load(static_cast<const A*>(pre[r][0])), load(static_cast<const A*>(pre[r][1])),
           load(static_cast<const A*>(pre[r][2])), load(static_cast<const A*>(pre[r][3]))});
}

// All rows of the batch as [x; h] in the type of sums: (B, I + P).
template <class S>
void step_inputs(const StepParams<S>& a, Acc<S>* in) {
  for (int64_t b = 0; b < a.B; ++b, in += a.I + a.P) {
    const int64_t slot = slot_of(a, b);
    if (slot < 0) {
      zero(in, a.I + a.P);
      continue;
    }
    load_rows(in, a.x + b * a.x_stride, a.I);
    if (starts_at_zero(a, b))
      zero(in + a.I, a.P);
    else
      load_rows(in + a.I, static_cast<const S*>(a.h) + slot * a.P, a.P);
  }
}

// A vector of units for R rows from b, of inputs (R, K) by the units' panel (K, 4, lanes).
template <class S, int R>
LSTM_INLINE void step_panel_rows(const StepParams<S>& a, int64_t unit, int64_t b, const Acc<S>* in,
                                 const Acc<S>* panel, const Vec<Acc<S>> (&bias)[kGroup]) {
  const int64_t K = a.I + a.P;
  Vec<Acc<S>> sum[R][kGroup];
  tile_product<Acc<S>, R>(sum, in + b * K, K, K, panel);
  for (int r = 0; r < R; ++r)
    if (slot_of(a, b + r) >= 0)
      step_cell<S>(
          a, unit, b + r,
          {bias[0] + sum[r][0], bias[1] + sum[r][1], bias[2] + sum[r][2], bias[3] + sum[r][3]});
}

template <class S>
void step_units_by_panels(const StepParams<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t K = a.I + a.P;
  Scratch<A> in(a.B * K), panel(K * kGroup * lanes);
  step_inputs(a, in.data);
  const Columns<S> weight_ih = {a.weight_ih, a.I, 4 * a.H, 1, a.I, true};
  const Columns<S> weight_hh = {a.weight_hh, a.P, 4 * a.H, 1, a.P, true};
  for (int64_t block = begin; block < end; ++block) {
    const int64_t unit = block * lanes, n = a.H - unit;
    pack_panel(panel.data, weight_ih, block);
    pack_panel(panel.data + weight_ih.panel_size(), weight_hh, block);
    Vec<A> bias[kGroup] = {};
    if (a.bias_ih)
      for (int64_t j = 0; j < kGroup; ++j)
        bias[j] = load(a.bias_ih + j * a.H + unit, n) + load(a.bias_hh + j * a.H + unit, n);
    in_tiles(0, a.B, [&](auto tile, int64_t b) LSTM_LAMBDA {
      step_panel_rows<S, decltype(tile)::rows>(a, unit, b, in.data, panel.data, bias);
    });
  }
}

template <class S>
void step_units(const StepParams<S>& a, int64_t begin, int64_t end) {
  if (a.B >= kPanelFrom) return step_units_by_panels(a, begin, end);
  for (int64_t block = begin; block < end; ++block) {
    int64_t b = 0;
    for (; b + kDotRows <= a.B; b += kDotRows) step_tile<S, kDotRows>(a, block, b);
    for (; b < a.B; ++b) step_tile<S, 1>(a, block, b);
  }
}

// h = hidden . weight_hr^T for rows [begin, end).
template <class S>
void step_project(const StepParams<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  using V = Vec<A>;
  for (int64_t b = begin; b < end; ++b) {
    if (slot_of(a, b) < 0) continue;
    const A* hidden = a.hidden + b * a.H;
    for (int64_t first = 0; first < a.P; first += kLanes<A>) {
      const int64_t n = a.P - first < kLanes<A> ? a.P - first : kLanes<A>;
      A h[kLanes<A>] = {};
      for (int64_t l = 0; l < n; ++l) {
        V sum = {};
        for (int64_t k = 0; k < a.H; k += kLanes<A>)
          sum += load(a.weight_hr + (first + l) * a.H + k, a.H - k) * load(hidden + k, a.H - k);
        for (int64_t k = 0; k < kLanes<A>; ++k) h[l] += sum[k];
      }
      const V out = load(static_cast<const A*>(h));
      store(a.h_n + b * a.P + first, out, n);
      store(a.y + b * a.y_stride + first, out, n);
    }
  }
}

// After every unit has read h: the new h into the state, zeros into the padding rows' outputs.
template <class S>
void step_commit(const StepParams<S>& a) {
  for (int64_t b = 0; b < a.B; ++b) {
    const int64_t slot = slot_of(a, b);
    if (slot >= 0) {
      __builtin_memcpy(a.h + slot * a.P, a.h_n + b * a.P, a.P * sizeof(S));
    } else {
      zero(a.y + b * a.y_stride, a.P);
      zero(a.h_n + b * a.P, a.P);
      zero(a.c_n + b * a.H, a.H);
    }
  }
}
