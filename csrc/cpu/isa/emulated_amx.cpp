// Kernels for any processor that emulate AMX's tiles of bfloat16, so that tests can run the tile kernels on
// any machine. Only STATEFUL_LSTM_CPU selects them.
#include <utility>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // no vector leaves this file
#endif
#include "cpu/kernels.h"

#define LSTM_HIDE(v) __asm__("" : "+m"(v))

#define LSTM_ISA tiles
#define LSTM_RARE
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 64;  // one row of a tile
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = true, kTiled = true, kMasked = false, kNarrows = false;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"

namespace stateful_lstm::cpu::LSTM_ISA {
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return a * b + c;
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return a * b + c;
}
LSTM_INLINE Vec<float> low_halves(const Pairs& v) { return bit_cast<Vec<float>>(v << 16); }
LSTM_INLINE Vec<float> high_halves(const Pairs& v) { return bit_cast<Vec<float>>(v & 0xffff0000u); }
LSTM_INLINE Vec<float> add_pairs(const Vec<float>& sum, const Pairs& a, const Pairs& b) {
  return sum + high_halves(a) * high_halves(b) + low_halves(a) * low_halves(b);
}

struct Tile {
  int64_t rows, columns;
  uint32_t number[kTileSide][kTileSide];
};
static thread_local Tile tiles[8];

LSTM_INLINE void tile_shape(int64_t rows, int64_t columns) {
  for (int k = 0; k < 8; ++k)
    tiles[k] = {k < 6 ? rows : kTileSide, k == 4 || k == 5 ? kTileSide : columns, {}};
}
LSTM_INLINE void tile_release() { tile_shape(0, 0); }
template <int tile>
LSTM_INLINE void tile_zero() {
  __builtin_memset(tiles[tile].number, 0, sizeof tiles[tile].number);
}
template <int tile>
LSTM_INLINE void tile_load(const void* from, int64_t row) {
  Tile& t = tiles[tile];
  for (int64_t r = 0; r < t.rows; ++r)
    __builtin_memcpy(t.number[r], static_cast<const char*>(from) + r * row, t.columns * 4);
}
template <int tile>
LSTM_INLINE void tile_store(void* to, int64_t row) {
  const Tile& t = tiles[tile];
  for (int64_t r = 0; r < t.rows; ++r)
    __builtin_memcpy(static_cast<char*>(to) + r * row, t.number[r], t.columns * 4);
}
// Sums the products of the pairs' first numbers and of their second numbers separately, each in order. Then
// adds both to the sum.
template <int sums, int a, int b>
LSTM_INLINE void tile_multiply() {
  for (int64_t r = 0; r < tiles[sums].rows; ++r) {
    Vec<float> even = {}, odd = {};
    for (int64_t k = 0; k < kTileSide; ++k) {
      const Pairs x = tiles[a].number[r][k] + Pairs{};
      Pairs w;
      __builtin_memcpy(&w, tiles[b].number[k], sizeof w);
      even += low_halves(x) * low_halves(w);
      odd += high_halves(x) * high_halves(w);
    }
    Vec<float> sum;
    __builtin_memcpy(&sum, tiles[sums].number[r], sizeof sum);
    sum += even + odd;
    __builtin_memcpy(tiles[sums].number[r], &sum, sizeof sum);
  }
}
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
