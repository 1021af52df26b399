// Products of rows of inputs with panels of weights, added to sums: by tiles of vector registers, or by AMX
// tiles.
#pragma once
#include "cpu/microkernel.h"
#include "cpu/microkernel_amx.h"
#include "cpu/row_state.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// add_panels for processors that multiply tiles. Weights in place are packed on the fly.
template <class Wanted>
LSTM_INLINE void tile_panels(const Sums<float>& out, const Pair* in, int64_t in_stride,
                             int64_t begin, int64_t end, int64_t K, const PackedPanel<Pair>& panel,
                             int64_t whole, const Wanted& wanted) {
  for (int64_t p = 0; p < whole; ++p)
    add_panel_tiles(Sums<float>{out.data + p * out.panel, out.row, out.n, 0}, in, in_stride, begin,
                    end, K, panel.data + p * 2 * panel.half, panel.half, wanted);
}
template <class S, class Wanted>
LSTM_APART void tile_panels(const Sums<float>& out, const Pair* in, int64_t in_stride,
                            int64_t begin, int64_t end, int64_t K, const PanelInPlace<S>& panel,
                            int64_t, const Wanted& wanted) {
  constexpr int64_t row = kHalf * kTileSide, length = kTileLength / 2;
  alignas(64) Pair pack[length * row];
  for (int64_t column = 0; column < kGroup * kTileSide && column < out.n; column += row)
    for (int64_t first = 0; first < K; first += length) {
      const int64_t left = K - first < length ? K - first : length;
      for (int64_t k = 0; k < left; ++k)
        for (int64_t j = 0; j < kHalf; ++j)
          store(pack + k * row + j * kTileSide,
                2 * (first + k) <= panel.last ? panel.column(first + k, column / kTileSide + j)
                                              : Pairs{});
      const int64_t n = out.n - column < row ? out.n - column : row;
      add_panel_tiles(Sums<float>{out.data + column, out.row, n, 0}, in + first, in_stride, begin,
                      end, left, static_cast<const Pair*>(pack), 0, wanted);
    }
}

// out += in (rows, K factors) times the panels of `together`, for rows [begin, end). Tiles for which
// wanted(Rows<R>, first row) is false are skipped. Row b starts at in + b * in_stride, and its sums at
// out.data + b * out.row. Only groups formed by Groups may have more than one panel.
template <class A, class F, class Panel, class Wanted>
LSTM_INLINE void add_panels(const Sums<A>& out, const F* in, int64_t in_stride, int64_t begin,
                            int64_t end, int64_t K, const Panel& panel, const Together& together,
                            const Wanted& wanted) {
  if constexpr (kTiled && kNumbers<F> > 1)
    return tile_panels(out, in, in_stride, begin, end, K, panel, together.whole, wanted);
  constexpr int64_t lanes = kLanes<A>, length = kSumLength / kNumbers<F>;
  const auto part_of = [&](int64_t k, int64_t half) LSTM_LAMBDA {
    Panel part = panel;
    part.go_on(k, half);
    return part;
  };
  const auto few = [&](auto rows, auto panels, auto shared) LSTM_LAMBDA {
    constexpr int R = decltype(rows)::rows;
    constexpr int C = kGroup * decltype(panels)::rows + decltype(shared)::rows;
    if (!wanted(rows, begin)) return;
    for (int64_t k = 0; k < K; k += length)
      add_tile<R, C>(Sums<A>{out.data + begin * out.row, out.row, out.n, out.panel},
                     RowInputs<F>{in + begin * in_stride + k, in_stride},
                     K - k < length ? K - k : length, part_of(k, 0));
  };
  if (together.several()) return with_few(end - begin, together, few);
  const bool whole = Panel::kWhole || out.n > kHalf * lanes;  // else only the first half exists
  for (int64_t half = 0; half < (whole ? kGroup / kHalf : 1); ++half)
    for (int64_t k = 0; k < K; k += length) {
      const int64_t column = half * kHalf * lanes;
      const auto tile = [&](auto rows, int64_t b) LSTM_LAMBDA {
        constexpr int R = decltype(rows)::rows, C = tile_columns(R);
        if ((whole && C == kGroup && half > 0) || !wanted(rows, b)) return;
        Panel part = part_of(k, half);
        part.fetch((b - begin) / kTileRows, length * panel.row, length);
        const Sums<A> to = {out.data + b * out.row + column, out.row, out.n - column, 0};
        const RowInputs<F> from = {in + b * in_stride + k, in_stride};
        const int64_t left = K - k < length ? K - k : length;
        if (whole)
          add_tile<R, C>(to, from, left, part);
        else
          add_tile<R, kHalf>(to, from, left, part);
      };
      in_tiles<kTileRows>(begin, end, tile);
    }
}
template <class F>  // with K factors
LSTM_INLINE PackedPanel<F> packed_panel(const F* pack, int64_t K, int64_t panel) {
  return {pack + panel * K * 2 * PackedPanel<F>::row, K * PackedPanel<F>::row};
}

// Sums (rows, 4, lanes) += R rows of `in` times the four gates of the units from `unit` on. It computes the
// same as add_panels with the packed panel, from unpacked weights: squares of them are transposed in
// registers and used at once. With few rows, a packed copy would not be used again.
template <int R, class S>
LSTM_APART void add_turned(const Sums<Acc<S>>& out, const Factor<S>* in, int64_t in_stride,
                           const Columns<S>& w, int64_t unit) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, each = kNumbers<Factor<S>>, length = kSumLength / each;
  constexpr int64_t kAhead = heuristics::kAheadSquares;
  const int64_t left = w.units() - unit, live = left < lanes ? left : lanes, depth = w.depth();
  for (int64_t begin = 0; begin < depth; begin += length) {
    const int64_t end = depth - begin < length ? depth : begin + length;
    for (int j = 0; j < kGroup; ++j) {
      const S* source = w.data + (j * w.units() + unit) * w.n_stride;
      Vec<A> sum[R] = {};
      int64_t k = begin;
      const auto add = [&](Vec<A>(&row)[lanes], int64_t count) LSTM_LAMBDA {
#pragma GCC unroll 16
        for (int l = 0; l < lanes; ++l)
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r)
            if (l < count)
              sum[r] = multiply_add(broadcast(in[r * in_stride + k + l]),
                                    bit_cast<decltype(load(in))>(row[l]), sum[r]);
      };
      for (; live == lanes && k + lanes <= end && each * (k + lanes) <= w.K; k += lanes) {
        Vec<A> row[lanes];
        for (int l = 0; l < lanes; ++l)
          __builtin_prefetch(source + l * w.n_stride + each * (k + kAhead * lanes), 0, 2);
        load_square(row, w, source, k);
        add(row, lanes);
      }
      for (; k < end; k += lanes) {
        Vec<A> row[lanes];
        load_square(row, w, source, k, live);
        add(row, end - k);
      }
      for (int r = 0; r < R; ++r) {
        A* to = out.data + r * out.row + j * lanes;
        store(to, load(static_cast<const A*>(to)) + sum[r]);
      }
    }
  }
}

struct Always {
  template <class Tile>
  LSTM_INLINE bool operator()(Tile, int64_t) const {
    return true;
  }
};

// out (rows, N) = in (rows, K numbers) times W, for rows [begin, end) and some panels. W is packed as plain
// panels in `pack`. If `pack` is null, W is `weight` (K, N) in place, and N is a multiple of a panel's
// columns.
template <class A, class F, class S, class Wanted>
void plain_product(A* out, int64_t out_stride, const F* in, int64_t in_stride, int64_t begin,
                   int64_t end, int64_t K, int64_t N, const Range& panels, const F* pack,
                   const S* weight, const Wanted& wanted) {
  constexpr int64_t width = kGroup * kLanes<A>;
  const Range columns = times(panels, width, N);
  const int64_t depth = depth_of<S>(K);
  for (int64_t b = begin; b < end; ++b) zero(out + b * out_stride + columns.begin, columns.size());
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const Sums<A> to = {out + p * width, out_stride, N - p * width, 0};
    if (pack != nullptr)
      add_panels(to, in, in_stride, begin, end, depth, packed_panel(pack, depth, p), {1, 0},
                 wanted);
    else
      add_panels(to, in, in_stride, begin, end, depth,
                 PanelInPlace<S>{weight + p * width, width / 2, N, K - 1}, {1, 0}, wanted);
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
