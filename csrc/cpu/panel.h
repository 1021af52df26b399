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

// Calls tile(Rows<R>, first row) for rows [b, end): threes, and twos rather than a lone row, whose
// four sums would leave the multipliers waiting for each other.
template <int R>
struct Rows {
  static constexpr int rows = R;
};
template <class F>
LSTM_INLINE void in_tiles(int64_t b, int64_t end, const F& tile) {
  for (; end - b == 3 || end - b > 4; b += 3) tile(Rows<3>{}, b);
  for (; end - b >= 2; b += 2) tile(Rows<2>{}, b);
  if (b < end) tile(Rows<1>{}, b);
}

// out (rows, N) = in (rows, K) times a plainly packed W, for rows [begin, end) and some panels.
template <class A>
void plain_product(A* out, int64_t out_stride, const A* in, int64_t in_stride, int64_t begin,
                   int64_t end, int64_t K, int64_t N, const Range& panels, const A* pack) {
  for (int64_t p = panels.begin; p < panels.end; ++p)
    in_tiles(begin, end, [&](auto tile, int64_t b) LSTM_LAMBDA {
      constexpr int R = decltype(tile)::rows;
      Vec<A> sum[R][kGroup];
      tile_product<A, R>(sum, in + b * in_stride, in_stride, K, pack + p * K * kGroup * kLanes<A>);
      for (int r = 0; r < R; ++r)
        for (int64_t j = 0; j < kGroup; ++j) {
          const int64_t n = (p * kGroup + j) * kLanes<A>;
          if (n < N) store(out + (b + r) * out_stride + n, sum[r][j], N - n);
        }
    });
}
