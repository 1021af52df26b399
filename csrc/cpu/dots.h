// Products of inputs with weights where they lie, row-major as in torch.nn.LSTM: nothing is packed.
// Included only by isa_*.cpp, after panel.h.
//
// A gate of a unit is one dot product of the inputs with its row of weights. For one row of inputs, the four
// gates of a unit go side by side; for more, each loaded weight serves up to kDotRows of them, and the
// weights of one gate of a vector of units stay in L1 while all rows of inputs go through.
//
// The order of every sum depends on nothing but its length: a row's bits are the same alone and among
// others.

// What products take beside weights of type S: numbers of the type of sums, or bfloat16 where the
// processor multiplies pairs of them.
template <class S>
using Input = std::conditional_t<kPaired<S>, bfloat16, Acc<S>>;
// From one row of K inputs to the next where weights are packed: whole factors, past K zeros.
template <class S>
constexpr int64_t input_stride(int64_t K) {
  return spread_row<Input<S>>(depth_of<S>(K) * kNumbers<Factor<S>>);
}

// Rows of inputs that share a loaded weight; bfloat16 beside float needs twice the registers.
template <class S, class In>
constexpr int kDotRows = sizeof(S) < sizeof(In) ? 2 : 3;
constexpr int64_t kRowsAtOnce = 48;  // batch rows whose sums wait on the stack

// Inputs as add_products wants them. Floats beside bfloat16: two vectors at a time, first the numbers at
// even places, then those at odd ones.
template <class S>
LSTM_INLINE void load_inputs(S* to, const S* from, int64_t n) {
  __builtin_memcpy(static_cast<void*>(to), from, n * sizeof(S));
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
// The same of numbers that are there already.
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

// sum[r][n] += the products of weight row n with input row r from k on to K, lane by lane. Weight rows of K
// numbers begin `apart` numbers after each other.
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<Acc<S>> (&sum)[R][N], const S* weight, int64_t apart, int64_t K,
                              const Acc<S>* in, int64_t in_stride, int64_t k) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  for (; k + lanes <= K; k += lanes) {
    Vec<A> x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      x[r] = load(in + r * in_stride + k);
      if constexpr (R > 3) LSTM_HIDE(x[r]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      Vec<A> w = load(weight + n * apart + k);
      if constexpr (R > 1) LSTM_HIDE(w);  // or else each use loads it anew
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] = fused(x[r], w, sum[r][n]);
    }
  }
  if (k == K) return;
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vec<A> w = load_end(weight + n * apart, K, K - k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<A> x = load_end(in + r * in_stride, K, K - k);
      sum[r][n] = fused(x, w, sum[r][n]);
    }
  }
}
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<Acc<S>> (&sum)[R][N], const S* weight, int64_t apart, int64_t K,
                              const Acc<S>* in, int64_t in_stride) {
  add_products<S, R, N>(sum, weight, apart, K, in, in_stride, 0);
}
// bfloat16 beside float: two vectors of weights from one load, those at even and those at odd places,
// which costs less than spreading them out in order; load_inputs has put the inputs into that order.
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<float> (&sum)[R][N], const bfloat16* weight, int64_t apart,
                              int64_t K, const float* in, int64_t in_stride) {
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
      const Halves w = load_halves(weight + n * apart + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] = fused(even[r], w.even, sum[r][n]);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][n] = fused(odd[r], w.odd, sum[r][n]);
    }
  }
  add_products<bfloat16, R, N>(sum, weight, apart, K, in, in_stride, k);
}

// bfloat16 beside bfloat16: products of pairs, summed in float.
template <class S, int R, int N>
LSTM_INLINE void add_products(Vec<float> (&sum)[R][N], const bfloat16* weight, int64_t apart,
                              int64_t K, const bfloat16* in, int64_t in_stride) {
  constexpr int64_t both = 2 * kLanes<float>;
  const auto add = [&](int64_t k, int64_t n) LSTM_LAMBDA {
    Pairs x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) x[r] = load_pairs(in + r * in_stride + k, n);
#pragma GCC unroll 16
    for (int m = 0; m < N; ++m) {
      Pairs w = load_pairs(weight + m * apart + k, n);
      if constexpr (R > 1) LSTM_HIDE(w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][m] = add_pairs(sum[r][m], x[r], w);
    }
  };
  int64_t k = 0;
  for (; k + both <= K; k += both) add(k, both);
  if (k < K) add(k, K - k);
}

// Weight rows one after the other, (rows, K) dense.
template <class S>
struct WeightRows {
  const S* data;
  int64_t K;
};

// sum[r][n] += the products of row `row` + n * apart of [first, second] with input row r, lane by lane.
template <class S, class In, int R, int N>
LSTM_INLINE void lane_sums(Vec<Acc<S>> (&sum)[R][N], const WeightRows<S>& first,
                           const WeightRows<S>& second, int64_t row, int64_t apart, const In* in) {
  const int64_t stride = first.K + second.K;
  const auto add = [&](const WeightRows<S>& w, const In* from) LSTM_LAMBDA {
    add_products<S, R, N>(sum, w.data + row * w.K, apart * w.K, w.K, from, stride);
  };
  add(first, in);
  add(second, in + first.K);
}

// The dot products of `live` rows of [first, second], from `row` on, with `count` rows of inputs, at
// most kRowsAtOnce: a vector each, zero past `live`. Of N rows of weights at a time the lanes are added up
// as far as that goes while the sums are in registers, beside the multiplications of the next tile.
template <class S, int N, int most, class In>
LSTM_INLINE void dots_by(const WeightRows<S>& first, const WeightRows<S>& second, int64_t row,
                         int64_t live, const In* in, int64_t count, Vec<Acc<S>>* dot) {
  using A = Acc<S>;
  constexpr int lanes = kLanes<A>;
  const int64_t K = first.K + second.K;
  Vec<A> folded[kRowsAtOnce][lanes / N];
  for (int64_t n = 0; n < lanes; n += N)
    in_tiles<most>(0, count, [&](auto rows, int64_t b) LSTM_LAMBDA {
      constexpr int R = decltype(rows)::rows;
      Vec<A> tile[R];
      if (n + N <= live) {
        Vec<A> sum[R][N] = {};
        lane_sums<S>(sum, first, second, row + n, 1, in + b * K);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) tile[r] = fold_rows<A>(sum[r]);
      } else {
        Vec<A> some[R][N] = {};
        for (int64_t m = 0; n + m < live; ++m) {
          Vec<A> sum[R][1] = {};
          lane_sums<S>(sum, first, second, row + n + m, 1, in + b * K);
          for (int r = 0; r < R; ++r) some[r][m] = sum[r][0];
        }
        for (int r = 0; r < R; ++r) tile[r] = fold_rows<A>(some[r]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) folded[b + r][n / N] = tile[r];
    });
  for (int64_t b = 0; b < count; ++b) dot[b] = row_sums<A, N>(folded[b]);
}
template <class S, class In>
LSTM_APART void dot_products(const WeightRows<S>& first, const WeightRows<S>& second, int64_t row,
                             int64_t live, const In* in, int64_t count, Vec<Acc<S>>* dot) {
  constexpr int lanes = kLanes<Acc<S>>, few = lanes < kDotColumns ? lanes : kDotColumns;
  // Four rows are one tile of half as many columns, in place of two; where the weights come from further away
  // than L2, eight streams bring them sooner than four.
  if constexpr (few > 4) {
    constexpr int64_t kFar = 64 << 10;
    if (count == 4 && few * (first.K + second.K) * int64_t(sizeof(S)) < kFar)
      return dots_by<S, few / 2, 4>(first, second, row, live, in, 4, dot);
  }
  dots_by<S, few, kDotRows<S, In>>(first, second, row, live, in, count, dot);
}

// The same for a single row of inputs and the four gates of `live` units from `unit` on; a gate's rows are H.
// Each of the four rows that are read side by side goes on where the unit before ended: what a processor
// fetches ahead, beyond the end of a row, is what comes next.
template <class S, class In>
LSTM_APART void gate_dots(const WeightRows<S>& first, const WeightRows<S>& second, int64_t H,
                          int64_t unit, int64_t live, const In* in, Vec<Acc<S>> (&dot)[kGroup]) {
  using A = Acc<S>;
  constexpr int lanes = kLanes<A>, N = lanes < 4 ? lanes : 4;
  Vec<A> folded[kGroup][lanes / N];
  for (int64_t n = 0; n < lanes; n += N) {
    Vec<A> gate[kGroup][N] = {};
#pragma GCC unroll 4
    for (int m = 0; m < N; ++m) {
      if (n + m >= live) break;
      Vec<A> sum[1][kGroup] = {};
      lane_sums<S>(sum, first, second, unit + n + m, H, in);
      for (int j = 0; j < kGroup; ++j) gate[j][m] = sum[0][j];
    }
#pragma GCC unroll 4
    for (int j = 0; j < kGroup; ++j) folded[j][n / N] = fold_rows<A>(gate[j]);
  }
  for (int j = 0; j < kGroup; ++j) dot[j] = row_sums<A, N>(folded[j]);
}

// out (rows, 4, lanes) += rows [begin, end) of in (rows, K) times the four gates of the units from `unit`
// on, of weight (4H, K): what add_panel does with packed ones.
template <class S>
void add_gate_dots(Acc<S>* out, const S* weight, int64_t K, int64_t H, const Input<S>* in,
                   int64_t begin, int64_t end, int64_t unit) {
  using A = Acc<S>;
  constexpr int64_t most = kRowsAtOnce, lanes = kLanes<A>;
  const int64_t live = H - unit < lanes ? H - unit : lanes;
  if (end - begin == 1) {
    Vec<A> dot[kGroup];
    gate_dots<S, Input<S>>({weight, K}, {weight, 0}, H, unit, live, in + begin * K, dot);
    for (int64_t j = 0; j < kGroup; ++j) {
      A* to = out + (begin * kGroup + j) * lanes;
      store(to, load(static_cast<const A*>(to)) + dot[j]);
    }
    return;
  }
  Vec<A> dot[most];
  for (int64_t first = begin; first < end; first += most) {
    const int64_t count = end - first < most ? end - first : most;
    for (int64_t j = 0; j < kGroup; ++j) {
      dot_products<S, Input<S>>({weight, K}, {weight, 0}, j * H + unit, live, in + first * K, count,
                                dot);
      for (int64_t b = 0; b < count; ++b) {
        A* to = out + ((first + b) * kGroup + j) * lanes;
        store(to, load(static_cast<const A*>(to)) + dot[b]);
      }
    }
  }
}
