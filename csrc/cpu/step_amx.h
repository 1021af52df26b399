// T = 1 with tiles, in place on the resident state.
//
// Rows of weights are tiles A in place. The inputs become tiles B, one column per batch row, prepared once
// for all units. So no weight is packed, and each weight is read once for up to 32 rows. The sums start with
// the biases and run over x, then h, as in a whole sequence, and so have the same bits.
#pragma once
#include "cpu/microkernel_amx.h"
#include "cpu/step.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// Divides the batch rows equally among columns of tiles, `columns` rows each. Layout of [x; h] for them:
// whole tiles, the pairs of x and then of h, `columns` elements apart.
template <class S>
struct StepTiles {
  const StepParams<S>& a;
  int64_t columns = tile_height(a.B);

  int64_t x() const { return depth_of<S>(a.I); }
  int64_t h() const { return depth_of<S>(a.P); }
  int64_t size() const { return (x() + h()) * columns; }  // of a column of tiles, in pairs
  Pair* at(int64_t b) const { return reinterpret_cast<Pair*>(a.in) + b / columns * size(); }
};

// K numbers of each row (null: zeros) as tiles B: pair k of row b at to[k * columns + b].
template <class S>
LSTM_INLINE void tile_columns(Pair* to, int64_t columns, const S* const* rows, int64_t K) {
  for (int64_t k = 0; k < depth_of<S>(K); k += kTileSide) {
    const int64_t left = K - 2 * k;
    Vec<float> row[kLanes<float>];  // kTileSide, if there are tiles
    for (int64_t b = 0; b < kTileSide; ++b)
      row[b] = b < columns && rows[b] && left > 0
                   ? bit_cast<Vec<float>>(load_pairs(rows[b] + 2 * k, left))
                   : Vec<float>{};
    if (columns > 1) transpose<float>(row);
    // The next store overwrites the excess of a row.
    for (int64_t l = 0; l < (columns > 1 ? kTileSide : 1); ++l)
      store(to + (k + l) * columns, bit_cast<Pairs>(row[l]));
  }
}

template <class S>
void tile_step_inputs(const StepParams<S>& a, const S* before) {
  const StepTiles<S> tiles = {a};
  for (int64_t begin = 0; begin < a.B; begin += tiles.columns) {
    const S *x[kTileSide] = {}, *h[kTileSide] = {};
    for (int64_t b = begin; b < begin + tiles.columns && b < a.B; ++b) {
      const int64_t slot = slot_of(a, b);
      if (slot < 0) continue;
      x[b - begin] = a.x + b * a.x_stride;
      if (!starts_at_zero(a, b)) h[b - begin] = hidden_of(a, before, b);
    }
    Pair* to = tiles.at(begin);
    tile_columns(to, tiles.columns, x, a.I);
    tile_columns(to + tiles.x() * tiles.columns, tiles.columns, h, a.P);
  }
}

constexpr int64_t kStepRows = 2 * kTileSide;  // rows of sums: units, and a margin that may be read

// Adds the products of [weight_ih, weight_hh] with one or two columns of tiles to the sums of G gates from j
// on, for `height` units from `unit` on, which all exist.
template <int G, int N, class S>
LSTM_INLINE void add_step_tiles(const StepTiles<S>& tiles, int64_t j, int64_t unit, int64_t height,
                                int64_t b, float* sums, int64_t gate_size) {
  constexpr int64_t each = sizeof(Pair);
  const StepParams<S>& a = tiles.a;
  const int64_t columns = tiles.columns, line = columns * sizeof(float);
  each_number<G * N>([&](auto k) LSTM_LAMBDA {
    tile_load<k.value>(sums + k.value / N * gate_size + k.value % N * kStepRows * columns, line);
  });
  const auto add = [&](const S* weight, int64_t K, const Pair* in) LSTM_LAMBDA {
    const S* first = weight + (j * a.H + unit) * K;
    const int64_t whole = K / (2 * kTileSide), left = K - whole * 2 * kTileSide;
    const int64_t row = K * sizeof(S), gate = a.H * row, along = kTileSide * each * columns;
    const TileOperand b_whole = {in, columns * each, tiles.size() * each, along};
    multiply_tiles<G, N>({first, row, gate, kTileSide * each}, b_whole, whole);
    if (left == 0) return;
    alignas(64) Pairs end[G][kTileSide];
    for (int64_t g = 0; g < G; ++g)
      for (int64_t l = 0; l < height; ++l)
        end[g][l] = load_pairs(first + (g * a.H + l) * K + whole * 2 * kTileSide, left);
    const TileOperand b_end = {b_whole.data + whole * along, b_whole.row, b_whole.beside, 0};
    multiply_tiles<G, N>({end, sizeof end[0][0], sizeof end[0], 0}, b_end, 1);
  };
  const Pair* in = tiles.at(b);
  add(a.weight_ih, a.I, in);
  add(a.weight_hh, a.P, in + tiles.x() * columns);
  each_number<G * N>([&](auto k) LSTM_LAMBDA {
    tile_store<k.value>(sums + k.value / N * gate_size + k.value % N * kStepRows * columns, line);
  });
}

// `live` units, at most a vector, for the batch rows of one or two columns of tiles, from b on.
template <int N, class S>
LSTM_APART void step_tile_block(const StepTiles<S>& tiles, int64_t unit, int64_t live, int64_t b) {
  using V = Vec<float>;
  const StepParams<S>& a = tiles.a;
  const int64_t columns = tiles.columns;
  // Sixteen existing units, if H is large enough. The last tile may overlap the units before it.
  const int64_t height = a.H < kTileSide ? a.H : kTileSide;
  const int64_t first = unit < a.H - height ? unit : a.H - height, shift = unit - first;
  constexpr int64_t most = N * kStepRows * kTileSide;
  alignas(64) float sums[kGroup * most];
  const int64_t gate_size = N * kStepRows * columns;
  for (int64_t j = 0; j < kGroup; ++j) {
    alignas(64) float bias[kTileSide] = {};
    const int64_t row = j * a.H + first;
    if (a.bias_ih)
      store(static_cast<float*>(bias),
            load(a.bias_ih + row, height) + load(a.bias_hh + row, height));
    for (int64_t n = 0; n < N; ++n) {
      float* to = sums + j * gate_size + n * kStepRows * columns;
      for (int64_t l = 0; columns > 1 && l < height; ++l)
        store(to + l * columns, broadcast<float>(bias[l]));
      if (columns == 1) store(to, load(static_cast<const float*>(bias)));
    }
  }
  if constexpr (N == 1) {
    add_step_tiles<4, 1>(tiles, 0, first, height, b, sums, gate_size);
  } else {
    add_step_tiles<2, 2>(tiles, 0, first, height, b, sums, gate_size);
    add_step_tiles<2, 2>(tiles, 2, first, height, b, sums + 2 * gate_size, gate_size);
  }
  for (int64_t n = 0; n < N; ++n) {
    V pre[kGroup][kLanes<float>];
    for (int64_t j = 0; j < kGroup; ++j) {
      const float* from = sums + j * gate_size + (n * kStepRows + shift) * columns;
      for (int64_t l = 0; l < (columns > 1 ? kTileSide : 1); ++l)
        pre[j][l] = load(from + l * columns);
      if (columns > 1) transpose<float>(pre[j]);
    }
    for (int64_t r = 0; r < columns; ++r) {
      const int64_t row = b + n * columns + r;
      if (row >= a.B) break;
      if (slot_of(a, row) >= 0)
        step_cell<S>(a, unit, live, row, {pre[0][r], pre[1][r], pre[2][r], pre[3][r]});
      else
        step_padding(a, unit, live, row);
    }
  }
}

template <class S>
void tile_step_units(const StepParams<S>& a, int64_t begin, int64_t end) {
  const StepTiles<S> tiles = {a};
  const TilesInUse<S> used;
  shape_tiles<S>(a.H < kTileSide ? a.H : kTileSide, tiles.columns);
  in_vectors(a, begin, end, [&](int64_t unit, int64_t live) LSTM_LAMBDA {
    int64_t b = 0;
    for (; b + tiles.columns < a.B; b += 2 * tiles.columns)
      step_tile_block<2>(tiles, unit, live, b);
    if (b < a.B) step_tile_block<1>(tiles, unit, live, b);
  });
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
