// Products of inputs with weights in place, row-major as in torch.nn.LSTM. Nothing is packed.
//
// Each gate of a unit is one dot product of the inputs with a row of weights. The four gates of a unit are
// computed side by side, and the next unit's rows follow directly in memory. So the data that the hardware
// prefetches beyond the end of a row is needed next. Each loaded weight serves up to kDotRows rows of inputs.
// The weights of a unit stay in L1 while all rows of inputs pass through. Unless there are many inputs, these
// come from L1 too.
//
// The order of every sum depends only on its length, so a row has the same bits alone and among other rows.
#pragma once
#include "cpu/microkernel.h"
#include "cpu/row_state.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// The inputs of products with weights of type S: Acc<S>, or bfloat16 where the processor multiplies pairs of
// it.
template <class S>
using Input = std::conditional_t<kPaired<S>, bfloat16, Acc<S>>;
// Elements between rows of K inputs for packed weights: whole factors, with zeros past K.
template <class S>
constexpr int64_t input_stride(int64_t K) {
  return spread_row<Input<S>>(depth_of<S>(K) * kNumbers<Factor<S>>);
}

// Rows of inputs that share a loaded weight, limited by the registers. float inputs with bfloat16 weights
// need twice as many registers.
template <class S, class In>
constexpr int kDotRows = sizeof(S) < sizeof(In) ? kTileRows / 3 : kTileRows / 2;
constexpr int64_t kRowsAtOnce = 64;  // batch rows whose sums wait on the stack

// Copies inputs into the order that add_products expects. For float inputs with bfloat16 weights: in blocks
// of two vectors, first the numbers at even positions, then those at odd positions.
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
// Reorders inputs in place in the same way.
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

// sum[r][n] += the products of weight row n with input row r from k to K, lane by lane. Weight rows of K
// numbers start `apart` elements after each other.
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
      if constexpr (R > 1) LSTM_HIDE(w);  // otherwise each use loads it again
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
// bfloat16 weights with float inputs: one load gives two vectors of weights, at even and at odd positions.
// This costs less than widening them in order. load_inputs has put the inputs into the same order.
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

// bfloat16 weights with bfloat16 inputs: products of pairs, summed in float.
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

// Consecutive rows of weights, (rows, K) dense.
template <class S>
struct WeightRows {
  const S* data;
  int64_t K;
};

// Sums over `first` that are already computed, lane by lane: (unit, rows, 4, lanes), for input rows from
// `row` on and gates from `gate` on. `skip` is the number of weight rows between the first gate's rows and
// those of `gate`.
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

// sum[r][n] = the products of row `row` + n * apart of [first, second] with input row r, lane by lane. If the
// sums over x are already computed, it adds only the products with `second` to them.
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

// The rows of weights that make up a vector of dot products: groups of kSide rows that are computed side by
// side. Rows of a group are `apart` rows apart, groups `next` rows. The first `live` lanes of the vector
// exist.
struct DotRows {
  int64_t row, apart, next, live;
};
template <class A>
constexpr int kSide = kLanes<A> < kGroup ? kLanes<A> : kGroup;

// The folded sums of a group with only `live` existing rows, for one row of inputs. Not inlined, since it is
// rare.
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

// Such a vector for each of `count` rows of inputs, at most kRowsAtOnce. Lanes past `live` are zero. A
// group's sums are folded while they are in registers, which overlaps with the multiplications of the next
// group.
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

// The four gates of `live` units from `unit` on, for a single row of inputs. A gate has H rows of weights.
// The sums of several units are folded together; otherwise each unit would wait for the folding of the
// unit before.
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
  constexpr int N = kSide<A>, units = kLanes<A> / N;  // a vector holds N gates of each
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
    const auto sort = [&](int k, int l) LSTM_LAMBDA {  // even positions, then odd positions
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

// out (rows, 4, lanes) += rows [begin, end) of in (rows, K) times the four gates of the units from `unit` on,
// with weight (4H, K) in place. add_panels does the same with packed weights.
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
