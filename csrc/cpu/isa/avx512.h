// Code shared by all instruction sets with vectors of 64 bytes.
#pragma once
#include <immintrin.h>

#if !defined(LSTM_ISA)
#define LSTM_VECTOR_BYTES 64
#endif
#include "cpu/simd.h"

namespace stateful_lstm::cpu::LSTM_ISA {

LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return bit_cast<Vec<float>>(
      _mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return bit_cast<Vec<double>>(
      _mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
}

LSTM_INLINE uint32_t first_lanes(int64_t n) { return (uint32_t{1} << n) - 1; }
LSTM_INLINE Vec<float> load_first(const float* p, int64_t n) {
  return bit_cast<Vec<float>>(_mm512_maskz_loadu_ps(first_lanes(n), p));
}
LSTM_INLINE Vec<double> load_first(const double* p, int64_t n) {
  return bit_cast<Vec<double>>(_mm512_maskz_loadu_pd(first_lanes(n), p));
}
LSTM_INLINE HalfInts load_first(const uint16_t* p, int64_t n) {
  return bit_cast<HalfInts>(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
LSTM_INLINE void store_first(float* p, const Vec<float>& v, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), bit_cast<__m512>(v));
}
LSTM_INLINE void store_first(double* p, const Vec<double>& v, int64_t n) {
  _mm512_mask_storeu_pd(p, first_lanes(n), bit_cast<__m512d>(v));
}
LSTM_INLINE void store_first(uint16_t* p, const HalfInts& v, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), bit_cast<__m256i>(v));
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
