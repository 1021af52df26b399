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

// Batch rows that share a loaded weight; bfloat16 needs twice the registers for its inputs.
template <class S>
constexpr int kDotRows = 3;
template <>
constexpr int kDotRows<bfloat16> = 2;
// Batch rows whose sums, a vector of them for each of `lanes` units, wait in L1.
template <class A>
constexpr int64_t kRowsAtOnce = (12 << 10) / (kLanes<A> * kVectorBytes);

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

// Inputs as add_products wants them, from parameters' type or from that of sums. bfloat16: two vectors
// at a time, first the numbers at even places, then those at odd ones.
template <class S>
LSTM_INLINE void load_inputs(Acc<S>* to, const S* from, int64_t n) {
  load_rows(to, from, n);
}
LSTM_INLINE void load_inputs(float* to, const bfloat16* from, int64_t n) {
  constexpr int64_t lanes = kLanes<float>;
  int64_t k = 0;
  for (; k + 2 * lanes <= n; k += 2 * lanes) {
    const Halves pair = load_halves(from + k);
    store(to + k, pair.even);
    store(to + k + lanes, pair.odd);
  }
  load_rows(to + k, from + k, n - k);
}
template <class S>
LSTM_INLINE void turn_inputs(Acc<S>* in, int64_t n) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  if constexpr (sizeof(S) < sizeof(Acc<S>))
    for (int64_t k = 0; k + 2 * lanes <= n; k += 2 * lanes) {
      const auto a = load(in + k), b = load(in + k + lanes);
      store(in + k, every_second<Acc<S>, 0>(a, b));
      store(in + k + lanes, every_second<Acc<S>, 1>(a, b));
    }
}

// All rows of the batch as [x; h], into a.in (B, I + P). Padding rows: zeros.
template <class S>
void step_inputs(const StepParams<S>& a) {
  Acc<S>* in = a.in;
  for (int64_t b = 0; b < a.B; ++b, in += a.I + a.P) {
    const int64_t slot = slot_of(a, b);
    if (slot < 0) {
      zero(in, a.I + a.P);
      continue;
    }
    load_inputs(in, a.x + b * a.x_stride, a.I);
    if (starts_at_zero(a, b))
      zero(in + a.I, a.P);
    else
      load_inputs(in + a.I, static_cast<const S*>(a.h) + slot * a.P, a.P);
  }
}

// sum[r][n] += the products of weight row n with input row r from k on to K, lane by lane; n counts
// rows from `weight`, (N, K) dense.
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<Acc<S>> (&sum)[R][N], const S* weight, int64_t K,
                              const Acc<S>* in, int64_t in_stride, int64_t k) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
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
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<Acc<S>> (&sum)[R][N], const S* weight, int64_t K,
                              const Acc<S>* in, int64_t in_stride) {
  add_products<S, R, N>(sum, weight, K, in, in_stride, 0);
}
// bfloat16: two vectors of weights from one load, those at even and those at odd places, which costs
// less than spreading them out in order; load_inputs has put the inputs into the same order.
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<float> (&sum)[R][N], const bfloat16* weight, int64_t K,
                              const float* in, int64_t in_stride) {
  constexpr int64_t lanes = kLanes<float>;
  int64_t k = 0;
  for (; k + 2 * lanes <= K; k += 2 * lanes) {
    Vec<float> even[R], odd[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      even[r] = load(in + r * in_stride + k);
      odd[r] = load(in + r * in_stride + k + lanes);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Halves w = load_halves(weight + n * K + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] += even[r] * w.even;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] += odd[r] * w.odd;
    }
  }
  add_products<bfloat16, R, N>(sum, weight, K, in, in_stride, k);
}

// Weight rows one after the other, (rows, K) dense.
template <class S>
struct WeightRows {
  const S* data;
  int64_t K;
};

// Lane by lane sums of the products of N rows of [first, second], from `row` on, with R rows of inputs,
// into N vectors each, kLanes vectors apart.
template <class S, int R, int N>
LSTM_INLINE void lane_sums(const WeightRows<S>& first, const WeightRows<S>& second, int64_t row,
                           const Acc<S>* in, Vec<Acc<S>>* out) {
  const int64_t stride = first.K + second.K;
  Vec<Acc<S>> sum[R][N] = {};
  add_products<S, R, N>(sum, first.data + row * first.K, first.K, in, stride);
  add_products<S, R, N>(sum, second.data + row * second.K, second.K, in + first.K, stride);
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) out[r * kLanes<Acc<S>> + n] = sum[r][n];
}

// The dot products of `live` rows of [first, second], from `row` on, with `count` rows of inputs, at
// most kRowsAtOnce: a vector each, zero past `live`.
template <class S>
LSTM_INLINE void dot_products(const WeightRows<S>& first, const WeightRows<S>& second, int64_t row,
                              int64_t live, const Acc<S>* in, int64_t count, Vec<Acc<S>>* dot) {
  using A = Acc<S>;
  constexpr int lanes = kLanes<A>, few = lanes < kDotColumns ? lanes : kDotColumns;
  const int64_t K = first.K + second.K;
  Vec<A> sums[kRowsAtOnce<A>][lanes];
  const auto rows = [&](auto columns, int64_t n) LSTM_LAMBDA {
    constexpr int N = decltype(columns)::rows;
    const auto tile = [&](auto tile_rows, int64_t b) LSTM_LAMBDA {
      lane_sums<S, decltype(tile_rows)::rows, N>(first, second, row + n, in + b * K, sums[b] + n);
    };
    in_tiles<decltype(tile), kDotRows<S>>(0, count, tile);
  };
  int64_t n = 0;
  if (count == 1 && live == lanes) {
    lane_sums<S, 1, lanes>(first, second, row, in, sums[0]);
    n = lanes;
  }
  for (; n + few <= live; n += few) rows(Rows<few>{}, n);
  for (; n < live; ++n) rows(Rows<1>{}, n);
  for (; n < lanes; ++n)
    for (int64_t b = 0; b < count; ++b) sums[b][n] = Vec<A>{};
  for (int64_t b = 0; b < count; ++b) dot[b] = row_sums<A>(sums[b]);
}

template <class S>
LSTM_INLINE void step_cell(const StepParams<S>& a, int64_t unit, int64_t b,
                           const Gates<Vec<Acc<S>>>& pre) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t n = a.H - unit < kLanes<A> ? a.H - unit : kLanes<A>;
  A* c = a.c + slot_of(a, b) * a.H + unit;
  const Gates<V> gate = activate<Math<A>, V>(pre);
  const V cell =
      cell_state<Math<A>>(gate, starts_at_zero(a, b) ? V{} : load(static_cast<const A*>(c), n));
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

// One vector of units for batch rows [begin, end), at most kRowsAtOnce.
template <class S>
void step_block(const StepParams<S>& a, int64_t unit, int64_t begin, int64_t end) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t live = a.H - unit < lanes ? a.H - unit : lanes;
  Vec<A> pre[kGroup][kRowsAtOnce<A>], bias[kGroup] = {};
  for (int64_t j = 0; j < kGroup; ++j) {
    const int64_t row = j * a.H + unit;
    if (a.bias_ih) bias[j] = load(a.bias_ih + row, live) + load(a.bias_hh + row, live);
    dot_products<S>({a.weight_ih, a.I}, {a.weight_hh, a.P}, row, live,
                    static_cast<const A*>(a.in) + begin * (a.I + a.P), end - begin, pre[j]);
  }
  for (int64_t b = begin; b < end; ++b)
    if (slot_of(a, b) >= 0)
      step_cell<S>(a, unit, b,
                   {pre[0][b - begin] + bias[0], pre[1][b - begin] + bias[1],
                    pre[2][b - begin] + bias[2], pre[3][b - begin] + bias[3]});
}

template <class S>
void step_units(const StepParams<S>& a, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<Acc<S>>, most = kRowsAtOnce<Acc<S>>;
  for (int64_t k = begin; k < end; ++k) {
    const int64_t unit = (a.backwards ? begin + end - 1 - k : k) * lanes;
    for (int64_t b = 0; b < a.B; b += most) step_block(a, unit, b, b + most < a.B ? b + most : a.B);
  }
}

// h = hidden . weight_hr^T for rows [begin, end).
template <class S>
void step_project(const StepParams<S>& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  Vec<A> h[kRowsAtOnce<A>];
  for (int64_t b = begin; b < end; ++b) turn_inputs<S>(a.hidden + b * a.H, a.H);
  for (int64_t first = 0; first < a.P; first += kLanes<A>)
    for (int64_t b = begin; b < end; b += kRowsAtOnce<A>) {
      const int64_t live = a.P - first < kLanes<A> ? a.P - first : kLanes<A>;
      const int64_t count = end - b < kRowsAtOnce<A> ? end - b : kRowsAtOnce<A>;
      dot_products<S>({a.weight_hr, a.H}, {a.weight_hr, 0}, first, live,
                      static_cast<const A*>(a.hidden) + b * a.H, count, h);
      for (int64_t r = 0; r < count; ++r)
        if (slot_of(a, b + r) >= 0) {
          store(a.h_n + (b + r) * a.P + first, h[r], live);
          store(a.y + (b + r) * a.y_stride + first, h[r], live);
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
