// Code shared by the instruction sets with AVX512-BF16.
#pragma once
#include "cpu/isa/avx512.h"

namespace stateful_lstm::cpu::LSTM_ISA {

LSTM_INLINE Vec<float> add_pairs(const Vec<float>& sum, const Pairs& a, const Pairs& b) {
  return bit_cast<Vec<float>>(
      _mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(a), bit_cast<__m512bh>(b)));
}
LSTM_INLINE HalfInts narrowed(const Vec<float>& v) {
  return bit_cast<HalfInts>(_mm512_cvtneps_pbh(bit_cast<__m512>(v)));
}
LSTM_INLINE Pairs first_pairs(const bfloat16* p, int64_t n) {
  return bit_cast<Pairs>(_mm512_maskz_loadu_epi16(first_lanes(n), p));
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
