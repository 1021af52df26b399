// The kernels for any processor, with products of pairs of bfloat16 as AVX512-BF16 has them, written out:
// so that tests can see that way anywhere. Never chosen by itself.
#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA pairs
#define LSTM_RARE
#include "cpu/isa/begin.h"
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = true, kTiled = false, kMasked = false, kNarrows = false;
#include "cpu/simd.h"
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return a * b + c;
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return a * b + c;
}
LSTM_INLINE Vec<float> add_pairs(const Vec<float>& sum, const Pairs& a, const Pairs& b) {
  const auto low = [](const Pairs& v) LSTM_LAMBDA { return bit_cast<Vec<float>>(v << 16); };
  const auto high = [](const Pairs& v)
                        LSTM_LAMBDA { return bit_cast<Vec<float>>(v & 0xffff0000u); };
  return sum + high(a) * high(b) + low(a) * low(b);
}
#include "cpu/all_kernels.h"
template Kernels<bfloat16> table<bfloat16>();
#include "cpu/isa/end.h"
