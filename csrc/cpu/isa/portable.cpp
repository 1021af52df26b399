// The kernels for any processor: vectors of 16 bytes, which the compiler maps to what is there.
#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA portable
#if defined(__x86_64__)  // elsewhere these are the only kernels
#define LSTM_RARE
#endif
#include "cpu/isa/begin.h"
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = false, kTiled = false, kMasked = false, kNarrows = false;
#include "cpu/simd.h"
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return a * b + c;
}
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return a * b + c;
}
#include "cpu/all_kernels.h"
template Kernels<float> table<float>();
template Kernels<double> table<double>();
template Kernels<bfloat16> table<bfloat16>();
#include "cpu/isa/end.h"
