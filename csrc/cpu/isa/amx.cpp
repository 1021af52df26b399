// Kernels for x86-64 processors with AMX, whose tiles multiply bfloat16. Other types use the kernels of
// avx512bf16.
#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA amx
#define LSTM_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 12, kCellRows = 6;
constexpr bool kPairs = true, kTiled = true, kMasked = !kWatched, kNarrows = true;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"
#include "cpu/isa/avx512.h"
#include "cpu/isa/avx512bf16.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// Inline assembly, since the compilers' intrinsics do not declare that they read and write memory.
LSTM_INLINE void tile_shape(int64_t rows, int64_t columns) {
  struct {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  for (int tile = 0; tile < 8; ++tile) {
    shape.row_bytes[tile] = 4 * (tile == 4 || tile == 5 ? kTileSide : columns);
    shape.rows[tile] = tile < 6 ? rows : kTileSide;
  }
  __asm__ volatile("ldtilecfg (%0)" ::"r"(&shape) : "memory");
}
LSTM_INLINE void tile_release() { __asm__ volatile("tilerelease" ::: "memory"); }
template <int tile>
LSTM_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile) : "memory");
}
template <int tile>
LSTM_INLINE void tile_load(const void* from, int64_t row) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row), "i"(tile) : "memory");
}
template <int tile>
LSTM_INLINE void tile_store(void* to, int64_t row) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row), "i"(tile) : "memory");
}
template <int sums, int a, int b>
LSTM_INLINE void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(b) : "memory");
}
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
#endif
