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
constexpr bool kPairs = true;
constexpr const char* kName = "avx512bf16";
#include "simd.h"
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return bit_cast<Vec<float>>(
      _mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return bit_cast<Vec<double>>(
      _mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
}
LSTM_INLINE Vec<float> add_pairs(const Vec<float>& sum, const Pairs& a, const Pairs& b) {
  return bit_cast<Vec<float>>(
      _mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(a), bit_cast<__m512bh>(b)));
}
#include "source.h"
}  // namespace stateful_lstm::cpu::avx512bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
