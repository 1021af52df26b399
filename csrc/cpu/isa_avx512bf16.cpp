// The kernels for x86-64 processors with AVX-512 and its products of pairs of bfloat16.
#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "kernels.h"

// From here on only: what stands in the headers above must run on any processor.
#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif
#include "../cell.h"

namespace stateful_lstm::cpu::avx512bf16 {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 12, kCellRows = 6;
constexpr int kDotColumns = 8;
constexpr bool kPairs = true, kMasked = !kWatched, kNarrows = true;
constexpr const char* kName = "avx512bf16";
#include "simd.h"
#include "avx512.h"
LSTM_INLINE Vec<float> add_pairs(const Vec<float>& sum, const Pairs& a, const Pairs& b) {
  return bit_cast<Vec<float>>(
      _mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(a), bit_cast<__m512bh>(b)));
}
LSTM_INLINE HalfInts narrowed(const Vec<float>& v) {
  return bit_cast<HalfInts>(_mm512_cvtneps_pbh(bit_cast<__m512>(v)));
}
#include "source.h"
}  // namespace stateful_lstm::cpu::avx512bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
