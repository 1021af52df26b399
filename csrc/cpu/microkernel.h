// The parts of a product: tiles of rows, panels of weights, sums, and add_tile, which adds a tile of products
// to the sums.
//
// A tile takes up to kTileRows rows by half a panel, as many as fit in the vector registers: 6 x 2 vectors of
// sums, 2 loaded vectors and a broadcast number with 16 registers, 12 x 2 vectors of sums with 32. Half a
// panel of length kSumLength stays in L1 while all rows pass through. A tile of a few rows takes more columns
// at once, from several panels if necessary. Otherwise the multipliers would wait for its few sums.
//
// Every sum runs over k in one order, whatever the number of rows. So a row's result depends neither on its
// neighbors nor on the number of steps per call. Long sums are sums of sums over kSumLength numbers, which
// keeps the error small.
#pragma once
#include "cpu/pack.h"
#include "cpu/row_state.h"

namespace stateful_lstm::cpu::LSTM_ISA {

template <int R>
struct Rows {
  static constexpr int rows = R;
};
template <int R, int each = 1, class F>
LSTM_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (R > each)
    if (rows < R) return with_rows<R - each, each>(rows, f);
  f(Rows<R>{});
}
// Calls tile(Rows<R>, first row) for rows [b, end) in tiles of `most` rows. The last two tiles share their
// rows equally. If the number of rows is a multiple of `each`, so is every tile's, and fewer tile sizes are
// compiled.
template <int most, int each = 1, class F>
LSTM_INLINE void in_tiles(int64_t b, int64_t end, const F& tile) {
  for (int64_t tiles = (end - b + most - 1) / most; tiles > 0; --tiles) {
    const int64_t left = end - b, half = (left + 2 * each - 1) / (2 * each) * each;
    with_rows<most, each>(tiles == 2 ? half : left, [&](auto tile_rows) LSTM_LAMBDA {
      tile(tile_rows, b);
      b += decltype(tile_rows)::rows;
    });
  }
}

// Panels processed together: whole panels, and the vectors of a last panel whose gates share them.
struct Together {
  int64_t whole, shared;
  bool several() const { return whole + shared > 1; }
};
// Divides all panels into groups. With few rows a group holds so many panels that two multipliers never wait,
// within the limit of the registers. A last panel with `shared` vectors joins the last group if there are one
// or two rows.
constexpr int64_t kManySums = kTileRows * kHalf * 2 / 3;
struct Groups {
  Range panels;
  int64_t shared, whole, size, count;
  bool joins;

  Groups(const Range& all, int64_t shared_vectors, int64_t rows)
      : panels(all), shared(shared_vectors), whole(all.size() - (shared > 0)) {
    const int64_t fit = rows > 0 ? kManySums / kGroup / rows : 1, most = fit > 1 ? fit : 1;
    count = (whole + most - 1) / most;
    size = count > 0 ? (whole + count - 1) / count : 1;
    joins = shared > 0 && count > 0 && rows <= 2;
  }
  // Calls f(first panel, Together) for all groups, the last group first if `backwards`.
  template <class F>
  LSTM_INLINE void each(bool backwards, const F& f) const {
    const int64_t all = count + (shared > 0 && !joins);
    for (int64_t g = 0; g < all; ++g) {
      const int64_t k = backwards ? all - 1 - g : g, first = k < count ? k * size : whole;
      const int64_t left = whole - first;
      f(panels.begin + first,
        k == count ? Together{1, 0}
                   : Together{left < size ? left : size, joins && k == count - 1 ? shared : 0});
    }
  }
};
// Calls f(Rows<R>, Rows<N>, Rows<shared>) for R rows and a group with N whole panels.
template <int R, int N, class F>
LSTM_INLINE void with_shared(int64_t shared, const F& f) {
  if (shared == 2) return f(Rows<R>{}, Rows<N>{}, Rows<2>{});
  if (shared == 1) return f(Rows<R>{}, Rows<N>{}, Rows<1>{});
  f(Rows<R>{}, Rows<N>{}, Rows<0>{});
}
template <class F>
LSTM_INLINE void with_few(int64_t rows, const Together& panels, const F& f) {
  if (rows == 2 && panels.whole == 2) return with_shared<2, 2>(panels.shared, f);
  if (rows == 2) return with_shared<2, 1>(panels.shared, f);
  if (panels.whole == 4) return with_shared<1, 4>(panels.shared, f);
  if (panels.whole == 3) return with_shared<1, 3>(panels.shared, f);
  if (panels.whole == 2) return with_shared<1, 2>(panels.shared, f);
  with_shared<1, 1>(panels.shared, f);
}
constexpr int tile_columns(int rows) { return rows * kGroup <= kManySums + 4 ? kGroup : kHalf; }

// Factors of panels from `data` on, with rows `row` apart and half panels `half` apart, across panels too.
// PackedPanel reads packed weights: the offset of each row is a constant. PanelInPlace reads weights in
// place.
template <class F>
struct PackedPanel {
  static constexpr int64_t row = kHalf * kVectorBytes / sizeof(F);
  static constexpr bool kWhole = false;  // whether all columns of every panel exist
  const F* data;
  int64_t half;
  // Cache lines needed later. One is prefetched with each row. Set by fetch().
  const char* next = nullptr;

  // Not with 32-byte vectors, where prefetching was slower (zen5.md in docs/internals/performance).
  LSTM_INLINE void fetch_next(int64_t k) const {
    if constexpr (kVectorBytes == 64) __builtin_prefetch(next + k * 64, 0, 2);
  }
  LSTM_INLINE auto column(int64_t k, int64_t j) const {
    constexpr int64_t lanes = kVectorBytes / sizeof(F);
    return load(data + k * row + j / kHalf * half + j % kHalf * lanes);
  }
  LSTM_INLINE void go_on(int64_t k, int64_t halves) { data += k * row + halves * half; }
  // Tile number `tile` prefetches its part of the `length` rows that start `ahead` factors later.
  LSTM_INLINE void fetch(int64_t tile, int64_t ahead, int64_t length) {
    constexpr int64_t kParts = row * sizeof(F) / 64;
    next = reinterpret_cast<const char*>(tile < kParts ? data + ahead : data);
    if (tile < kParts) next += tile * length * 64;
  }
};
template <class S>
struct PanelInPlace {
  static constexpr bool kWhole = true;
  const S* data;
  int64_t half, row, last;  // last existing row of weights, relative to `data`

  LSTM_INLINE void fetch_next(int64_t) const {}
  LSTM_INLINE void fetch(int64_t, int64_t, int64_t) {}
  LSTM_INLINE auto column(int64_t k, int64_t j) const {
    const S* from = data + j / kHalf * half + j % kHalf * kLanes<Acc<S>>;
    if constexpr (kPaired<S>)
      return bit_cast<Pairs>(load(from + 2 * k * row)) >> 16 |
             bit_cast<Pairs>(2 * k < last ? load(from + (2 * k + 1) * row) : Vec<Acc<S>>{});
    else
      return load(from + k * row);
  }
  LSTM_INLINE void go_on(int64_t k, int64_t halves) {
    data += kNumbers<Factor<S>> * k * row + halves * half;
    last -= kNumbers<Factor<S>> * k;
  }
};

// Sums to which products are added. Row r starts at data + r * row and has C vectors, of which the first n
// numbers exist. Sums of further panels follow `panel` elements later. `fresh` sums hold no values yet.
template <class Out>  // Acc<S>; or a narrower type, for fresh and complete sums
struct Sums {
  Out* data;
  int64_t row, n, panel;
  bool fresh = false;
};

// The inputs of a tile: contiguous factors of a row, or of a column.
template <class F>
struct RowInputs {
  static constexpr bool kMayBeFresh = false;  // whether sums may be fresh
  const F* data;
  int64_t row;
  LSTM_INLINE const F& at(int64_t r, int64_t k) const { return data[r * row + k]; }
};
template <class F>
struct ColumnInputs {
  static constexpr bool kMayBeFresh = true;
  const F* data;
  int64_t column;
  LSTM_INLINE const F& at(int64_t r, int64_t k) const { return data[k * column + r]; }
};

// sum += in (R, K) times K rows of C/2 half panels. K counts factors.
template <class A, int R, int C, class In, class Panel>
LSTM_INLINE void add_rows(Vec<A> (&sum)[R][C], const In& in, int64_t K, const Panel& panel) {
  const auto add = [&](int64_t k) LSTM_LAMBDA {
    const auto column = [&](int j) LSTM_LAMBDA { return panel.column(k, j); };
    if constexpr (C == kHalf) {
      panel.fetch_next(k);
      const decltype(column(0)) w[C] = {column(0), column(1)};
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const auto x = broadcast(in.at(r, k));
        sum[r][0] = multiply_add(x, w[0], sum[r][0]);
        sum[r][1] = multiply_add(x, w[1], sum[r][1]);
      }
    } else {
      decltype(column(0)) x[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) x[r] = broadcast(in.at(r, k));
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        const auto w = column(j);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][j] = multiply_add(x[r], w, sum[r][j]);
      }
    }
  };
  constexpr int kAtOnce = C > kGroup ? 2 : 4;
  int64_t k = 0;
  for (; k + kAtOnce <= K; k += kAtOnce) {
#pragma GCC unroll 4
    for (int next = 0; next < kAtOnce; ++next) add(k + next);
  }
  for (; k < K; ++k) add(k);
}

// out (rows, columns) += sums (rows, columns) for a tile whose last columns do not all exist. This case is
// rare, so one compiled function serves all tile sizes.
template <class Out>
LSTM_APART void add_some(const Sums<Out>& out, const Acc<Out>* sums, int64_t rows, int64_t columns,
                         bool fresh) {
  constexpr int64_t lanes = kLanes<Acc<Out>>;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t column = 0; column < columns && column < out.n; column += lanes) {
      Out* to = out.data + r * out.row + column;
      const auto add = load(sums + r * columns + column);
      const int64_t n = out.n - column;
      store(to, fresh ? add : load(static_cast<const Out*>(to), n) + add, n);
    }
}

// out (R, C vectors) += the products of a tile.
template <int R, int C, class Out, class In, class Panel>
LSTM_APART void add_tile(const Sums<Out>& out, const In& in, int64_t K, const Panel& panel) {
  using A = Acc<Out>;
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> sum[R][C] = {};
  add_rows<A>(sum, in, K, panel);
  // One branch for all sums of a tile. With a branch per sum, short products took longer, and g++ ran out of
  // registers in the loop above.
  const auto put = [&](const auto& one) LSTM_LAMBDA {
#pragma GCC unroll 12  // otherwise the sums would live in memory
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) one(r, j, sum[r][j]);
  };
  const auto at = [&](int r, int j) LSTM_LAMBDA {
    return out.data + r * out.row + j / kGroup * out.panel + j % kGroup * lanes;
  };
  const bool fresh = sizeof(Out) < sizeof(A) || (In::kMayBeFresh && out.fresh);
  if (C <= kGroup && out.n < C * lanes) {
    A some[R * C * lanes];
    put([&](int r, int j, const Vec<A>& add)
            LSTM_LAMBDA { store(some + (r * C + j) * lanes, add); });
    add_some<Out>(out, some, R, C * lanes, fresh);
  } else if (fresh) {
    put([&](int r, int j, const Vec<A>& add) LSTM_LAMBDA { store(at(r, j), add); });
  } else {
    put([&](int r, int j, const Vec<A>& add)
            LSTM_LAMBDA { store(at(r, j), load(static_cast<const Out*>(at(r, j))) + add); });
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
