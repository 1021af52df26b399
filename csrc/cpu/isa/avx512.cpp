// Kernels for x86-64 processors with AVX-512: vectors of 64 bytes and 32 registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA avx512
#define LSTM_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 12, kCellRows = 6;
constexpr bool kPairs = false, kTiled = false, kMasked = !kWatched, kNarrows = false;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"
#include "cpu/isa/avx512.h"

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<float> table<float>();
template Kernels<double> table<double>();
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
#endif
