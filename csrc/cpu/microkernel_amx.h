// Products of tiles. Sums are tiles of 16 rows by 16 columns. One AMX instruction adds the products of 32
// numbers to each sum of a tile.
//
// Sums (rows, columns) += A (rows, pairs) B (pairs, columns), in the layout of pack.h: a packed half panel is
// two columns of tiles B, and rows of inputs are tiles A in place. Four tiles of sums, two by two, use each
// loaded tile twice; otherwise loading would take longer than multiplying. The sums stay in tiles over
// kTileLength numbers, so that half a panel stays in L1 for the next rows.
//
// A sum depends only on its own row and column. Its numbers are added in order, 32 at a time, wherever a loop
// over them is cut. So a sum has the same bits in any block, and also with A and B exchanged, as for weights
// that are read in place.
#pragma once
#include "cpu/microkernel.h"

namespace stateful_lstm::cpu::LSTM_ISA {

constexpr int64_t kTileLength = 512;

// The height of tiles when `rows` rows are divided equally among as few tiles as possible.
LSTM_INLINE int64_t tile_height(int64_t rows) {
  const int64_t tiles = (rows + kTileSide - 1) / kTileSide;
  return tiles > 0 ? (rows + tiles - 1) / tiles : 1;
}

// Tiles have one shape at a time, per thread. A change of shape takes as long as a dozen products. `rows` is
// the height of sums and A, `columns` the width of sums and B. The length of A and B is always a whole tile.
// Code that shapes tiles must run within the lifetime of a TilesInUse.
static thread_local int64_t tiles_now = 0;
template <class Out>  // float or bfloat16
LSTM_INLINE void shape_tiles(int64_t rows, int64_t columns) {
  const int64_t shape = rows << 8 | columns;
  if (tiles_now == shape) return;
  tiles_now = shape;
  tile_shape(rows, columns);
}
template <class S>
struct TilesInUse {
  TilesInUse() {}
  TilesInUse(const TilesInUse&) = delete;
  ~TilesInUse() {
    if constexpr (kTiles<S>) {
      if (tiles_now != 0) tile_release();
      tiles_now = 0;
    }
  }
};

// Calls f(Number<0>) to f(Number<N - 1>).
template <int k>
struct Number {
  static constexpr int value = k;
};
template <int N, int k = 0, class F>
LSTM_INLINE void each_number(const F& f) {
  if constexpr (k < N) {
    f(Number<k>{});
    each_number<N, k + 1>(f);
  }
}

// A sequence of tiles A or B. Strides in bytes: between the rows of a tile, to the tile beside it, and to the
// next tile along the sums.
struct TileOperand {
  const char* data;
  int64_t row, beside, along;

  LSTM_INLINE TileOperand(const void* from, int64_t row, int64_t beside, int64_t along)
      : data(static_cast<const char*>(from)), row(row), beside(beside), along(along) {}
  LSTM_INLINE const char* at(int64_t place) const { return data + place * beside; }
};

// Tiles 0 to R * C - 1, of R by C, += A B over the given number of tile lengths. Tiles 4 and 5 hold A, 6 and
// 7 hold B.
template <int R, int C>
LSTM_INLINE void multiply_tiles(TileOperand a, TileOperand b, int64_t lengths) {
  for (int64_t k = 0; k < lengths; ++k, a.data += a.along, b.data += b.along) {
    if constexpr (R <= 2) {
      each_number<R>([&](auto r) LSTM_LAMBDA { tile_load<4 + r.value>(a.at(r.value), a.row); });
      each_number<C>([&](auto c) LSTM_LAMBDA {
        tile_load<6 + c.value % 2>(b.at(c.value), b.row);
        each_number<R>([&](auto r) LSTM_LAMBDA {
          tile_multiply<r.value * C + c.value, 4 + r.value, 6 + c.value % 2>();
        });
      });
    } else {
      static_assert(C == 1);
      tile_load<6>(b.at(0), b.row);
      each_number<R>([&](auto r) LSTM_LAMBDA {
        tile_load<4 + r.value % 2>(a.at(r.value), a.row);
        tile_multiply<r.value, 4 + r.value % 2, 6>();
      });
    }
  }
}

// Adds R by C tiles of products to sums like those of add_tile. Tiles are `height` high; `rows` rows exist.
template <int R, int C, class Out>
LSTM_APART void add_tiles(const Sums<Out>& out, int64_t rows, int64_t height, const TileOperand& a,
                          const TileOperand& b, int64_t lengths) {
  const auto data = [&](int r, int c) LSTM_LAMBDA -> Out* {
    return out.data + r * height * out.row + c * kTileSide;
  };
  const auto rows_of = [&](int r) LSTM_LAMBDA {
    const int64_t left = rows - r * height;
    return left < height ? left : height;
  };
  const auto columns_of = [&](int c) LSTM_LAMBDA {
    const int64_t left = out.n - c * kTileSide;
    return left < kTileSide ? left : kTileSide;
  };
  const auto whole = [&](int r, int c) LSTM_LAMBDA {
    return sizeof(Out) == sizeof(float) && rows_of(r) == height && columns_of(c) == kTileSide;
  };
  float scratch[kTileSide][kTileSide];  // for partial tiles
  each_number<R>([&](auto r) LSTM_LAMBDA {
    each_number<C>([&](auto c) LSTM_LAMBDA {
      constexpr int tile = r.value * C + c.value;
      if (out.fresh) return tile_zero<tile>();
      if (whole(r.value, c.value))
        return tile_load<tile>(data(r.value, c.value), out.row * sizeof(Out));
      for (int64_t k = 0; k < rows_of(r.value); ++k)
        if (columns_of(c.value) > 0)
          store(scratch[k], load(static_cast<const Out*>(data(r.value, c.value)) + k * out.row,
                                 columns_of(c.value)));
      tile_load<tile>(scratch, sizeof scratch[0]);
    });
  });
  multiply_tiles<R, C>(a, b, lengths);
  each_number<R>([&](auto r) LSTM_LAMBDA {
    each_number<C>([&](auto c) LSTM_LAMBDA {
      constexpr int tile = r.value * C + c.value;
      if (whole(r.value, c.value))
        return tile_store<tile>(data(r.value, c.value), out.row * sizeof(Out));
      tile_store<tile>(scratch, sizeof scratch[0]);
      for (int64_t k = 0; k < rows_of(r.value); ++k)
        if (columns_of(c.value) > 0)
          store(data(r.value, c.value) + k * out.row, load(static_cast<const float*>(scratch[k])),
                columns_of(c.value));
    });
  });
}

// out += in (rows [begin, end), K) times a packed panel. K counts pairs and is a multiple of kTileSide. Rows
// are in_stride pairs apart. The caller must allow reads past the last row, up to a whole tile.
template <class Out, class Wanted>
LSTM_INLINE void add_panel_tiles(const Sums<Out>& out, const Pair* in, int64_t in_stride,
                                 int64_t begin, int64_t end, int64_t K, const Pair* panel,
                                 int64_t half, const Wanted& wanted) {
  constexpr int64_t each = sizeof(Pair), row = kHalf * kTileSide, length = kTileLength / 2;
  const int64_t height = tile_height(end - begin);
  shape_tiles<Out>(height, kTileSide);
  const auto any = [&](int64_t b, int64_t last) LSTM_LAMBDA {
    bool found = false;
    for (; b < last && !found; ++b) found = wanted(Rows<1>{}, b);
    return found;
  };
  for (int64_t column = 0; column < kGroup * kTileSide && column < out.n; column += row)
    for (int64_t k = 0; k < K; k += length)
      for (int64_t b = begin; b < end; b += 2 * height) {
        const int64_t rows = end - b < 2 * height ? end - b : 2 * height;
        if (!any(b, b + rows)) continue;
        const Sums<Out> to = {out.data + b * out.row + column, out.row, out.n - column, 0,
                              out.fresh && k == 0};
        const TileOperand a = {in + b * in_stride + k, in_stride * each, height * in_stride * each,
                               kTileSide * each};
        const TileOperand w = {panel + column / row * half + k * row, row * each, kTileSide * each,
                               kTileSide * row * each};
        const int64_t lengths = (K - k < length ? K - k : length) / kTileSide;
        if (rows > height)
          add_tiles<2, kHalf>(to, rows, height, a, w, lengths);
        else
          add_tiles<1, kHalf>(to, rows, height, a, w, lengths);
      }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
