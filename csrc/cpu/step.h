// T = 1 for one layer, in place on the resident state: matrix-vector work.
// Included only by isa_*.cpp, after panel.h. Shapes: params.h.
//
// The weights are read once, where they lie, in torch.nn.LSTM's own row-major layout: nothing is
// packed and nothing kept from call to call, so nothing can be stale. A gate of a unit is one dot
// product of [x; h] with its row of weight_ih and weight_hh. For one batch row, `lanes` rows of
// weights go side by side, as many streams as keep memory and multipliers busy; for more batch rows
// each loaded weight serves up to kDotRows of them. The weights of one gate of a vector of units stay
// in L1 while all batch rows go through.
//
// The order of every sum depends on nothing but I and P: a row's bits are the same alone and in any
// batch.

constexpr int kDotRows = 3;
constexpr int64_t kRowsAtOnce = 48;  // whose sums wait on the stack for the four gates

// The slot of a row; -1: a padding row.
template <class S>
LSTM_INLINE int64_t slot_of(const StepParams<S>& a, int64_t b) {
  return a.slots ? a.slots[b] : b;
}
// A row that starts at zero never reads its old state, which may hold NaN.
template <class S>
LSTM_INLINE bool starts_at_zero(const StepParams<S>& a, int64_t b) {
  return a.from_zero || (a.reset && a.reset[b * a.reset_stride]);
}

// All rows of the batch as [x; h] in the type of sums, into a.in (B, I + P). Padding rows: zeros.
template <class S>
void step_inputs(const StepParams<S>& a) {
  Acc<S>* in = a.in;
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

// sum[r][n] += the products of weight row n with input row r, lane by lane; n counts rows from
// `weight`, (N, K) dense.
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<Acc<S>> (&sum)[R][N], const S* weight, int64_t K,
                              const Acc<S>* in, int64_t in_stride) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  int64_t k = 0;
  for (; k + lanes <= K; k += lanes) {
    Vec<A> x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) x[r] = load(in + r * in_stride + k);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vec<A> w = load(weight + n * K + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] += x[r] * w;
    }
  }
  if (k == K) return;
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vec<A> w = load(weight + n * K + k, K - k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][n] += load(in + r * in_stride + k, K - k) * w;
  }
}

// Weight rows one after the other, (rows, K) dense.
template <class S>
struct WeightRows {
  const S* data;
  int64_t K;
};

// The dot products of `live` rows of [first, second], from `row` on, with R rows of inputs: a vector
// each, zero past `live`.
template <class S, int R>
LSTM_INLINE void dot_products(const WeightRows<S>& first, const WeightRows<S>& second, int64_t row,
                              int64_t live, const Acc<S>* in, Vec<Acc<S>> (&dot)[R]) {
  using A = Acc<S>;
  constexpr int lanes = kLanes<A>;
  constexpr int most = R == 1 || lanes < kDotColumns ? lanes : kDotColumns;
  const int64_t stride = first.K + second.K;
  Vec<A> partial[R][lanes];
  const auto rows = [&](auto columns, int64_t n) LSTM_LAMBDA {
    constexpr int N = decltype(columns)::rows;
    Vec<A> sum[R][N] = {};
    add_products<S, R, N>(sum, first.data + (row + n) * first.K, first.K, in, stride);
    add_products<S, R, N>(sum, second.data + (row + n) * second.K, second.K, in + first.K, stride);
    for (int r = 0; r < R; ++r)
      for (int m = 0; m < N; ++m) partial[r][n + m] = sum[r][m];
  };
  int64_t n = 0;
  for (; n + most <= live; n += most) rows(Rows<most>{}, n);
  for (; n < live; ++n) rows(Rows<1>{}, n);
  for (; n < lanes; ++n)
    for (int r = 0; r < R; ++r) partial[r][n] = Vec<A>{};
  for (int r = 0; r < R; ++r) dot[r] = row_sums<A>(partial[r]);
}

template <class S>
LSTM_INLINE void step_cell(const StepParams<S>& a, int64_t unit, int64_t b,
                           const Gates<Vec<Acc<S>>>& pre) {
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

// One vector of units for batch rows [b, end), at most kRowsAtOnce.
template <class S>
void step_block(const StepParams<S>& a, int64_t unit, int64_t begin, int64_t end) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t K = a.I + a.P, live = a.H - unit < lanes ? a.H - unit : lanes;
  Vec<A> pre[kRowsAtOnce][kGroup];
  for (int64_t j = 0; j < kGroup; ++j) {
    const int64_t row = j * a.H + unit;
    const Vec<A> bias =
        a.bias_ih ? load(a.bias_ih + row, live) + load(a.bias_hh + row, live) : Vec<A>{};
    const auto tile = [&](auto rows, int64_t b) LSTM_LAMBDA {
      constexpr int R = decltype(rows)::rows;
      Vec<A> dot[R];
      dot_products<S, R>({a.weight_ih, a.I}, {a.weight_hh, a.P}, row, live,
                         static_cast<const A*>(a.in) + b * K, dot);
      for (int r = 0; r < R; ++r) pre[b - begin + r][j] = dot[r] + bias;
    };
    in_tiles<decltype(tile), kDotRows>(begin, end, tile);
  }
  for (int64_t b = begin; b < end; ++b)
    if (slot_of(a, b) >= 0)
      step_cell<S>(a, unit, b,
                   {pre[b - begin][0], pre[b - begin][1], pre[b - begin][2], pre[b - begin][3]});
}

template <class S>
void step_units(const StepParams<S>& a, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block)
    for (int64_t b = 0; b < a.B; b += kRowsAtOnce)
      step_block(a, block * kLanes<Acc<S>>, b, b + kRowsAtOnce < a.B ? b + kRowsAtOnce : a.B);
}

// h = hidden . weight_hr^T for rows [begin, end).
template <class S>
void step_project(const StepParams<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  for (int64_t first = 0; first < a.P; first += kLanes<A>) {
    const int64_t live = a.P - first < kLanes<A> ? a.P - first : kLanes<A>;
    const auto tile = [&](auto rows, int64_t b) LSTM_LAMBDA {
      constexpr int R = decltype(rows)::rows;
      Vec<A> h[R];
      dot_products<S, R>({a.weight_hr, a.H}, {a.weight_hr, 0}, first, live,
                         static_cast<const A*>(a.hidden) + b * a.H, h);
      for (int r = 0; r < R; ++r)
        if (slot_of(a, b + r) >= 0) {
          store(a.h_n + (b + r) * a.P + first, h[r], live);
          store(a.y + (b + r) * a.y_stride + first, h[r], live);
        }
    };
    in_tiles<decltype(tile), kDotRows>(begin, end, tile);
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
