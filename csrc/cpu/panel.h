// Products of rows of inputs with a packed panel of weights, added to what is there.
// Included only by isa_*.cpp, after pack.h, which tells how the weights are packed.
//
// A tile takes up to kTileRows rows by half a panel, as many as the vector registers hold: with 16 of
// them 6 x 2 vectors of sums, 2 loaded ones and a broadcast number; with 32 12 x 2 of sums. Half a panel,
// kSumLength long, stays in L1 while all rows go through. A tile of a few rows takes both halves at once,
// or else its few sums would leave the multipliers waiting for each other.
//
// Every sum runs over k in one order, whatever the number of rows: a row's result does not depend on its
// neighbours, nor on how many steps one call does. Long sums are made of sums over kSumLength numbers,
// which keeps their error small.
constexpr int64_t kSumLength = 256;

// Calls tile(Rows<R>, first row) for rows [b, end): tiles of `most` rows; the last two share theirs equally.
template <int R>
struct Rows {
  static constexpr int rows = R;
};
template <int R, class F>
LSTM_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (R > 1)
    if (rows < R) return with_rows<R - 1>(rows, f);
  f(Rows<R>{});
}
template <int most, class F>
LSTM_INLINE void in_tiles(int64_t b, int64_t end, const F& tile) {
  for (int64_t tiles = (end - b + most - 1) / most; tiles > 0; --tiles) {
    const int64_t left = end - b, rows = tiles == 2 ? (left + 1) / 2 : left;
    with_rows<most>(rows, [&](auto tile_rows) LSTM_LAMBDA {
      tile(tile_rows, b);
      b += decltype(tile_rows)::rows;
    });
  }
}

// Rows of a panel from `data` on, `row` apart, and its second half `half` further on: packed, where loads
// from the next rows need no sums of addresses, or where the weights lie.
template <class A>
struct PackedPanel {
  static constexpr int64_t row = kHalf * kLanes<A>;
  const A* data;
  int64_t half;
};
template <class W>
struct PanelInPlace {
  const W* data;
  int64_t half, row;
};

// out (R, C vectors, of which the first n numbers exist) += in (R, K) times K rows of C/2 halves of a panel.
template <class A, int R, int C, class Panel>
LSTM_APART void add_tile(A* out, int64_t out_stride, int64_t n, const A* in, int64_t in_stride,
                         int64_t K, const Panel& panel) {
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> sum[R][C] = {};
  const auto add = [&](int64_t k) LSTM_LAMBDA {
    if constexpr (C == kHalf) {
      const Vec<A> w[C] = {load(panel.data + k * panel.row),
                           load(panel.data + k * panel.row + lanes)};
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const Vec<A> x = broadcast<A>(in[r * in_stride + k]);
        sum[r][0] = fused(x, w[0], sum[r][0]);
        sum[r][1] = fused(x, w[1], sum[r][1]);
      }
    } else {
      Vec<A> x[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) x[r] = broadcast<A>(in[r * in_stride + k]);
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) {
        const Vec<A> w =
            load(panel.data + k * panel.row + j / kHalf * panel.half + j % kHalf * lanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r][j] = fused(x[r], w, sum[r][j]);
      }
    }
  };
  int64_t k = 0;
  for (; k + 4 <= K; k += 4) {
#pragma GCC unroll 4
    for (int next = 0; next < 4; ++next) add(k + next);
  }
  for (; k < K; ++k) add(k);
#pragma GCC unroll 12  // or else the sums would live in memory
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      A* to = out + r * out_stride + j * lanes;
      if (j * lanes < n)
        store(to, load(static_cast<const A*>(to), n - j * lanes) + sum[r][j], n - j * lanes);
    }
}

// out += in (rows, K) times one panel for rows [begin, end), where wanted(Rows<R>, first row) says of a
// tile that it matters. Row b of the inputs lies at in + b * in_stride, of the sums at
// out + b * out_stride: kGroup vectors, of which the first n numbers exist.
template <class A, class Panel, class Wanted>
LSTM_INLINE void add_panel(A* out, int64_t out_stride, int64_t n, const A* in, int64_t in_stride,
                           int64_t begin, int64_t end, int64_t K, const Panel& panel,
                           const Wanted& wanted) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t half = 0; half < kGroup / kHalf; ++half)
    for (int64_t k = 0; k < K; k += kSumLength) {
      const int64_t length = K - k < kSumLength ? K - k : kSumLength;
      Panel part = panel;
      part.data += k * panel.row + half * panel.half;
      const int64_t column = half * kHalf * lanes;
      const auto tile = [&](auto rows, int64_t b) LSTM_LAMBDA {
        constexpr int R = decltype(rows)::rows, kEnough = 8;  // sums to keep two multipliers busy
        constexpr int C = R * kHalf < kEnough ? kGroup : kHalf;
        if ((C == kGroup && half > 0) || !wanted(rows, b)) return;
        add_tile<A, R, C>(out + b * out_stride + column, out_stride, n - column,
                          in + b * in_stride + k, in_stride, length, part);
      };
      in_tiles<kTileRows>(begin, end, tile);
    }
}
template <class A>
LSTM_INLINE PackedPanel<A> packed_panel(const A* pack, int64_t K, int64_t panel) {
  return {pack + panel * K * kGroup * kLanes<A>, K * PackedPanel<A>::row};
}
struct Always {
  template <class Tile>
  LSTM_INLINE bool operator()(Tile, int64_t) const {
    return true;
  }
};

// out (rows, N) = in (rows, K) times W, for rows [begin, end) and some panels: plainly packed in `pack`;
// or, without, of `weight` (K, N) where it lies, N being a multiple of a panel's columns.
template <class A, class S, class Wanted>
void plain_product(A* out, int64_t out_stride, const A* in, int64_t in_stride, int64_t begin,
                   int64_t end, int64_t K, int64_t N, const Range& panels, const A* pack,
                   const S* weight, const Wanted& wanted) {
  constexpr int64_t width = kGroup * kLanes<A>;
  const Range columns = times(panels, width, N);
  for (int64_t b = begin; b < end; ++b) zero(out + b * out_stride + columns.begin, columns.size());
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    A* to = out + p * width;
    const int64_t n = N - p * width;
    if (pack != nullptr)
      add_panel(to, out_stride, n, in, in_stride, begin, end, K, packed_panel(pack, K, p), wanted);
    else
      add_panel(to, out_stride, n, in, in_stride, begin, end, K,
                PanelInPlace<S>{weight + p * width, width / 2, N}, wanted);
  }
}
