// Kernels for x86-64 processors with AVX2 and FMA: vectors of 32 bytes.
#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA avx2
#define LSTM_TARGET "avx2,fma"
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = false, kTiled = false, kMasked = false, kNarrows = false;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"

namespace stateful_lstm::cpu::LSTM_ISA {
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return bit_cast<Vec<float>>(
      _mm256_fmadd_ps(bit_cast<__m256>(a), bit_cast<__m256>(b), bit_cast<__m256>(c)));
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return bit_cast<Vec<double>>(
      _mm256_fmadd_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b), bit_cast<__m256d>(c)));
}
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<float> table<float>();
template Kernels<double> table<double>();
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
#endif
