// Products of inputs with weights where they lie, row-major as in torch.nn.LSTM: nothing is packed.
//
// A gate of a unit is one dot product of the inputs with its row of weights. The four gates of a unit go side by
// side, and each of these rows goes on where the unit before ended: what a processor fetches ahead, beyond
// the end of a row, is what comes next. Each loaded weight serves up to kDotRows rows of inputs; those of
// a unit stay in L1 while all rows of inputs go through, which come from there as well unless they are many.
//
// The order of every sum depends on nothing but its length: a row's bits are the same alone and among
// others.
#pragma once
#include "cpu/microkernel.h"
#include "cpu/row_state.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// What products take beside weights of type S: numbers of the type of sums, or bfloat16 where the
// processor multiplies pairs of them.
template <class S>
using Input = std::conditional_t<kPaired<S>, bfloat16, Acc<S>>;
// From one row of K inputs to the next where weights are packed: whole factors, past K zeros.
template <class S>
constexpr int64_t input_stride(int64_t K) {
  return spread_row<Input<S>>(depth_of<S>(K) * kNumbers<Factor<S>>);
}

// Rows of inputs that share a loaded weight, as many as there are registers for; bfloat16 beside float needs
// twice as many for the inputs.
template <class S, class In>
constexpr int kDotRows = sizeof(S) < sizeof(In) ? kTileRows / 3 : kTileRows / 2;
constexpr int64_t kRowsAtOnce = 64;  // batch rows whose sums wait on the stack

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
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      x[r] = load(in + r * in_stride + k);
      if constexpr (R > 3) LSTM_HIDE(x[r]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      Vec<A> w = load(weight + n * apart + k);
      if constexpr (R > 1) LSTM_HIDE(w);  // or else each use loads it again
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) sum[r][n] = fused(x[r], w, sum[r][n]);
    }
  }
  if (k == K) return;
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vec<A> w = load_end(weight + n * apart, K, K - k);
#pragma GCC unroll 6
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
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      even[r] = load(in + r * in_stride + k);
      odd[r] = load(in + r * in_stride + k + lanes);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Halves w = load_halves(weight + n * apart + k);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) sum[r][n] = fused(even[r], w.even, sum[r][n]);
#pragma GCC unroll 6
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
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) x[r] = load_pairs(in + r * in_stride + k, n);
#pragma GCC unroll 16
    for (int m = 0; m < N; ++m) {
      Pairs w = load_pairs(weight + m * apart + k, n);
      if constexpr (R > 1) LSTM_HIDE(w);
#pragma GCC unroll 6
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

// Lane by lane, the sums over `first` of input rows from `row` on, where they are computed already: (unit, rows, 4, lanes). The
// gates from `gate` on are meant, whose rows of weights come `skip` after those of the first gate.
template <class A>
struct SumsOfX {
  const A* sums;
  int64_t rows, row, gate = 0, skip = 0;

  LSTM_INLINE const A* at(int64_t weight_row, int64_t b) const {
    return sums + (((weight_row - skip) * rows + row + b) * kGroup + gate) * kLanes<A>;
  }
};
struct NoSumsOfX {
  int64_t gate = 0, skip = 0;
  LSTM_INLINE const void* at(int64_t, int64_t) const { return nullptr; }
};

// sum[r][n] = the products of row `row` + n * apart of [first, second] with input row r, lane by lane; those with
// `second` alone where the sums over x are computed already.
template <class S, class In, int R, int N, class From>
LSTM_INLINE void lane_sums(Vec<Acc<S>> (&sum)[R][N], const WeightRows<S>& first,
                           const WeightRows<S>& second, int64_t row, int64_t apart, const In* in,
                           const From* x_sums) {
  constexpr bool go_on = std::is_same_v<From, Acc<S>>;
  const int64_t stride = first.K + second.K;
  const auto add = [&](const WeightRows<S>& w, const In* from) LSTM_LAMBDA {
    add_products<S, R, N>(sum, w.data + row * w.K, apart * w.K, w.K, from, stride);
  };
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n)
      if constexpr (go_on)
        sum[r][n] = load(x_sums + (r * kGroup + n) * kLanes<Acc<S>>);
      else
        sum[r][n] = Vec<Acc<S>>{};
  if constexpr (!go_on) add(first, in);
  add(second, in + first.K);
}

// Which rows of weights make a vector of dot products: groups of kSide rows that go side by side, `apart` from
// each other, and the groups `next` apart; of the vector's lanes the first `live` exist.
struct DotRows {
  int64_t row, apart, next, live;
};
template <class A>
constexpr int kSide = kLanes<A> < kGroup ? kLanes<A> : kGroup;

// The folded sums of a group of which only `live` rows exist, for one row of inputs: apart, since this is rare.
template <class S, class In>
LSTM_APART Vec<Acc<S>> fold_some(const WeightRows<S>& first, const WeightRows<S>& second,
                                 int64_t row, int64_t apart, int64_t live, const In* in) {
  using A = Acc<S>;
  Vec<A> some[kSide<A>] = {};
  for (int64_t m = 0; m < live; ++m) {
    Vec<A> one[1][1];
    lane_sums<S>(one, first, second, row + m * apart, 0, in, NoSumsOfX{}.at(0, 0));
    some[m] = one[0][0];
  }
  return fold_rows<A>(some);
}

// Such a vector for each of `count` rows of inputs, at most kRowsAtOnce; zero past `live`. The lanes of a group's
// sums are added up as far as that goes while they are in registers, beside the multiplications of the next.
template <class S, class In, class From = NoSumsOfX>
LSTM_APART void dot_products(const WeightRows<S>& first, const WeightRows<S>& second,
                             const DotRows& rows, const In* in, int64_t count, Vec<Acc<S>>* dot,
                             const From& x_sums = {}) {
  using A = Acc<S>;
  constexpr int N = kSide<A>, groups = kLanes<A> / N;
  const int64_t K = first.K + second.K;
  Vec<A> folded[kRowsAtOnce][groups];
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t row = rows.row + g * rows.next, live = rows.live - g * N;
    in_tiles<kDotRows<S, In>>(0, count, [&](auto tile, int64_t b) LSTM_LAMBDA {
      constexpr int R = decltype(tile)::rows;
      if (live >= N) {
        Vec<A> sum[R][N];
        lane_sums<S>(sum, first, second, row, rows.apart, in + b * K, x_sums.at(row, b));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) folded[b + r][g] = fold_rows<A>(sum[r]);
        return;
      }
      for (int r = 0; r < R; ++r)
        folded[b + r][g] = fold_some<S>(first, second, row, rows.apart, live, in + (b + r) * K);
    });
  }
  for (int64_t b = 0; b < count; ++b) dot[b] = row_sums<A, N>(folded[b]);
}

// The four gates of `live` units from `unit` on, for a single row of inputs; a gate has H rows of weights. The sums of
// some units wait for each other, or else the folding of one would be waited for by the next.
template <class S, class In, class From>
LSTM_APART void gate_dots_of_row(const WeightRows<S>& first, const WeightRows<S>& second, int64_t H,
                                 int64_t unit, int64_t live, const In* in, const From& x_sums,
                                 Vec<Acc<S>> (&dot)[kGroup]) {
  using A = Acc<S>;
  constexpr int lanes = kLanes<A>, N = kSide<A>;
  Vec<A> folded[kGroup][lanes / N];
  for (int64_t n = 0; n < lanes; n += N) {
    Vec<A> gate[kGroup][N] = {};
#pragma GCC unroll 4
    for (int m = 0; m < N; ++m) {
      if (n + m >= live) break;
      Vec<A> sum[1][kGroup];
      lane_sums<S>(sum, first, second, unit + n + m, H, in, x_sums.at(unit + n + m, 0));
      for (int j = 0; j < kGroup; ++j) gate[j][m] = sum[0][j];
    }
#pragma GCC unroll 4
    for (int j = 0; j < kGroup; ++j) folded[j][n / N] = fold_rows<A>(gate[j]);
  }
  for (int j = 0; j < kGroup; ++j) dot[j] = row_sums<A, N>(folded[j]);
}

// The same for `count` rows of inputs, at most kRowsAtOnce.
template <class S, class In, class From>
void gate_dots(const WeightRows<S>& first, const WeightRows<S>& second, int64_t H, int64_t unit,
               int64_t live, const In* in, int64_t count, From x_sums, Vec<Acc<S>> (*dot)[kGroup]) {
  using A = Acc<S>;
  if (count == 1) return gate_dots_of_row<S>(first, second, H, unit, live, in, x_sums, dot[0]);
  constexpr int N = kSide<A>, units = kLanes<A> / N;  // of which a vector has N gates
  Vec<A> part[kGroup][kRowsAtOnce];
  for (int64_t k = 0; k < kGroup; ++k) {
    const int64_t gate = N < kGroup ? k / N * N : 0, skip = N < kGroup ? k % N : k * units;
    x_sums.gate = gate;
    x_sums.skip = gate * H;
    dot_products<S>(first, second, {gate * H + unit + skip, H, 1, (live - skip) * N}, in, count,
                    part[k], x_sums);
  }
  for (int64_t b = 0; b < count; ++b) {
    Vec<A>(&v)[kGroup] = dot[b];
    for (int k = 0; k < kGroup; ++k) v[k] = part[k][b];
    const auto sort = [&](int k, int l) LSTM_LAMBDA {  // what comes first in pairs, and what second
      const Vec<A> even = every_second<A, 0>(v[k], v[l]), odd = every_second<A, 1>(v[k], v[l]);
      v[k] = even;
      v[l] = odd;
    };
    sort(0, 1);  // N = 4: i g i g ..., f o f o ...; N = 2: i i, f f
    sort(2, 3);
    if constexpr (N == kGroup) {
      sort(0, 2);
      sort(1, 3);
    }
  }
}

// out (rows, 4, lanes) += rows [begin, end) of in (rows, K) times the four gates of the units from `unit`
// on, of weight (4H, K): what add_panel does with packed ones.
template <class S>
void add_gate_dots(Acc<S>* out, const S* weight, int64_t K, int64_t H, const Input<S>* in,
                   int64_t begin, int64_t end, int64_t unit) {
  using A = Acc<S>;
  constexpr int64_t most = kRowsAtOnce, lanes = kLanes<A>;
  const int64_t live = H - unit < lanes ? H - unit : lanes;
  Vec<A> dot[most][kGroup];
  for (int64_t first = begin; first < end; first += most) {
    const int64_t count = end - first < most ? end - first : most;
    gate_dots<S>({weight, K}, {weight, 0}, H, unit, live, in + first * K, count, NoSumsOfX{}, dot);
    for (int64_t b = 0; b < count; ++b)
      for (int64_t j = 0; j < kGroup; ++j) {
        A* to = out + ((first + b) * kGroup + j) * lanes;
        store(to, load(static_cast<const A*>(to)) + dot[b][j]);
      }
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
