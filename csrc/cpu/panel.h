// The recurrent product: a few rows of h times a packed panel of weights, all in registers.
// Included only by isa_*.cpp, after pack.h, which tells how the weights are packed.
//
// A tile computes up to kTileRows rows by one panel: 3 x 4 vectors of sums, 3 broadcast numbers and
// one loaded vector fill the 16 vector registers of x86-64.
//
// Every sum runs over k in order with one accumulator, whatever the number of rows: a row's
// result does not depend on its neighbours, nor on how many steps one call does.

constexpr int kTileRows = 3;

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
  constexpr int64_t columns = kGroup * kLanes<A>;
  const int64_t count = (N + columns - 1) / columns;
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
