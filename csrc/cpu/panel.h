// Products of a few rows of inputs with a packed panel of weights, all in registers.
// Included only by isa_*.cpp, after pack.h, which tells how the weights are packed.
//
// A tile computes up to kTileRows rows by one panel, as many as the vector registers hold: with 16 of
// them 3 x 4 vectors of sums, 3 broadcast numbers and one loaded vector; with 32 6 x 4 of sums.
//
// Every sum runs over k in one order, whatever the number of rows: a row's result does not depend on its
// neighbours, nor on how many steps one call does.

// sum += rows (R, K) times K rows of a panel.
template <class A, int R>
LSTM_INLINE void tile_product(Vec<A> (&sum)[R][kGroup], const A* rows, int64_t row_stride,
                              int64_t K, const A* panel) {
  for (int64_t k = 0; k < K; ++k) {
    Vec<A> a[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) a[r] = broadcast<A>(rows[r * row_stride + k]);
#pragma GCC unroll 4
    for (int j = 0; j < kGroup; ++j) {
      const Vec<A> w = load(panel + (k * kGroup + j) * kLanes<A>);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][j] = fused(a[r], w, sum[r][j]);
    }
  }
}

// Calls tile(Rows<R>, first row) for rows [b, end), with R up to `most`. Never one row alone if there
// are others: its four sums would leave the multipliers waiting for each other.
template <int R>
struct Rows {
  static constexpr int rows = R;
};
template <class F, int most = kTileRows>
LSTM_INLINE void in_tiles(int64_t b, int64_t end, const F& tile) {
  for (; end - b >= most && (most < 3 || end - b != most + 1); b += most) tile(Rows<most>{}, b);
  if constexpr (most > 1) in_tiles<F, most - 1>(b, end, tile);
}

// Rows [begin, end) of in (rows, K) times one panel; calls done(Rows<R>, first row, sums) for each tile
// of which wanted(Rows<R>, first row) says that it matters. Long sums are made of sums over kSumLength
// numbers, which keeps their error small.
constexpr int64_t kSumLength = 256;

template <class A, class W, class F>
LSTM_INLINE void panel_product(const A* in, int64_t in_stride, int64_t begin, int64_t end,
                               int64_t K, const A* panel, const W& wanted, const F& done) {
  const auto tile = [&](auto rows, int64_t b) LSTM_LAMBDA {
    constexpr int R = decltype(rows)::rows;
    if (!wanted(rows, b)) return;
    Vec<A> total[R][kGroup] = {};
    for (int64_t k = 0; k < K; k += kSumLength) {
      Vec<A> sum[R][kGroup] = {};
      tile_product<A, R>(sum, in + b * in_stride + k, in_stride,
                         K - k < kSumLength ? K - k : kSumLength, panel + k * kGroup * kLanes<A>);
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < kGroup; ++j) total[r][j] += sum[r][j];
    }
    done(rows, b, total);
  };
  in_tiles(begin, end, tile);
}
struct Always {
  template <class Tile>
  LSTM_INLINE bool operator()(Tile, int64_t) const {
    return true;
  }
};

// out (rows, N) = in (rows, K) times a plainly packed W, for rows [begin, end) and some panels.
template <class A, class W>
void plain_product(A* out, int64_t out_stride, const A* in, int64_t in_stride, int64_t begin,
                   int64_t end, int64_t K, int64_t N, const Range& panels, const A* pack,
                   const W& wanted) {
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const auto keep = [&](auto rows, int64_t b, const auto& sum) LSTM_LAMBDA {
      for (int r = 0; r < decltype(rows)::rows; ++r)
        for (int64_t j = 0; j < kGroup; ++j) {
          const int64_t n = (p * kGroup + j) * kLanes<A>;
          if (n < N) store(out + (b + r) * out_stride + n, sum[r][j], N - n);
        }
    };
    panel_product(in, in_stride, begin, end, K, pack + p * K * kGroup * kLanes<A>, wanted, keep);
  }
}
