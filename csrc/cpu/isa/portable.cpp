// Kernels for any processor: vectors of 16 bytes, which the compiler maps to the available instructions.
#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA portable
#if defined(__x86_64__)  // elsewhere these are the only kernels
#define LSTM_RARE
#endif
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = false, kTiled = false, kMasked = false, kNarrows = false;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"

namespace stateful_lstm::cpu::LSTM_ISA {
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return a * b + c;
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return a * b + c;
}
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<float> table<float>();
template Kernels<double> table<double>();
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
