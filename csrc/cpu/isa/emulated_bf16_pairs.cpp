// Kernels for any processor that emulate the bfloat16 pair products of AVX512-BF16, so that tests can run the
// pair kernels on any machine. Only STATEFUL_LSTM_CPU selects them.
#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA pairs
#define LSTM_RARE
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = true, kTiled = false, kMasked = false, kNarrows = false;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"

namespace stateful_lstm::cpu::LSTM_ISA {
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
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
