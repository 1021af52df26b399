// The recurrent product: a few rows of h times a packed panel of weights, all in registers.
// Included only by isa_*.cpp, after simd.h.
//
// A matrix W (N columns of length K) is packed into panels of kGroup = 4 vectors of columns:
//   pack[panel][k][4][lanes],   columns past N are zero.
// A tile computes up to kTileRows rows by one panel: 3 x 4 vectors of sums, 3 broadcast numbers and
// one loaded vector fill the 16 vector registers of x86-64.
//
// Every sum runs over k in order with one accumulator, whatever the number of rows: a row's
// result does not depend on its neighbours, nor on how many steps one call does.

constexpr int64_t kGroup = 4;
constexpr int kTileRows = 3;

LSTM_INLINE int64_t panels(int64_t columns, int64_t columns_per_panel) {
  return (columns + columns_per_panel - 1) / columns_per_panel;
}

template <class A, int R>
LSTM_INLINE void tile_product(Vec<A> (&sum)[R][kGroup], const A* rows, int64_t row_stride,
                              int64_t K, const A* panel) {
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < kGroup; ++j) sum[r][j] = Vec<A>{};
  for (int64_t k = 0; k < K; ++k) {
    Vec<A> a[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) a[r] = broadcast<A>(rows[r * row_stride + k]);
#pragma GCC unroll 4
    for (int j = 0; j < kGroup; ++j) {
      const Vec<A> w = load(panel + (k * kGroup + j) * kLanes<A>);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][j] += a[r] * w;
    }
  }
}

// Packs columns of `weight`; element (k, n) of W lies at weight[k * k_stride + n * n_stride].
// Column j * lanes + l of panel p is n = first(p, j) + l, where first(p, j) is
//   gates:  j * H + p * lanes      (one panel holds i, f, g, o of the same units)
//   plain:  (p * 4 + j) * lanes
template <class S>
void pack_panels(Acc<S>* pack, const S* weight, int64_t K, int64_t N, int64_t k_stride,
                 int64_t n_stride, bool gates) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  const int64_t units = gates ? N / kGroup : N;
  const int64_t count = panels(units, gates ? lanes : kGroup * lanes);
  for (int64_t p = 0; p < count; ++p)
    for (int64_t j = 0; j < kGroup; ++j) {
      const int64_t unit = gates ? p * lanes : (p * kGroup + j) * lanes;
      const int64_t live = units - unit < 0 ? 0 : (units - unit < lanes ? units - unit : lanes);
      const S* source = weight + (gates ? j * units + unit : unit) * n_stride;
      for (int64_t k = 0; k < K; ++k) {
        Acc<S>* target = pack + ((p * K + k) * kGroup + j) * lanes;
        for (int64_t l = 0; l < live; ++l) target[l] = widen(source[k * k_stride + l * n_stride]);
        for (int64_t l = live; l < lanes; ++l) target[l] = 0;
      }
    }
}

template <class S>
int64_t pack_size(int64_t K, int64_t N, bool gates) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  return panels(gates ? N / kGroup : N, gates ? lanes : kGroup * lanes) * K * kGroup * lanes;
}

// out (rows, N) = in (rows, K) times a plainly packed W.
template <class A, int R>
LSTM_INLINE void plain_tile(A* out, int64_t out_stride, const A* in, int64_t in_stride, int64_t K,
                            int64_t N, int64_t p, const A* pack) {
  Vec<A> sum[R][kGroup];
  tile_product<A, R>(sum, in, in_stride, K, pack + p * K * kGroup * kLanes<A>);
  for (int r = 0; r < R; ++r)
    for (int64_t j = 0; j < kGroup; ++j) {
      const int64_t n = (p * kGroup + j) * kLanes<A>;
      if (n < N) store(out + r * out_stride + n, sum[r][j], N - n);
    }
}

template <class A>
void plain_product(A* out, int64_t out_stride, const A* in, int64_t in_stride, int64_t rows,
                   int64_t K, int64_t N, const A* pack) {
  const int64_t count = panels(N, kGroup * kLanes<A>);
  for (int64_t p = 0; p < count; ++p) {
    int64_t r = 0;
    for (; r + 3 <= rows; r += 3)
      plain_tile<A, 3>(out + r * out_stride, out_stride, in + r * in_stride, in_stride, K, N, p,
                       pack);
    if (rows - r == 2)
      plain_tile<A, 2>(out + r * out_stride, out_stride, in + r * in_stride, in_stride, K, N, p,
                       pack);
    if (rows - r == 1)
      plain_tile<A, 1>(out + r * out_stride, out_stride, in + r * in_stride, in_stride, K, N, p,
                       pack);
  }
}
