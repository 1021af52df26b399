// The bfloat16 kernels for x86-64 processors with AVX-512 and its products of bfloat16 pairs. Other types use
// the kernels of avx512.cpp.
#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "cpu/kernels.h"

#define LSTM_ISA avx512bf16
#define LSTM_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#include "cpu/isa/begin.h"

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 12, kCellRows = 6;
constexpr bool kPairs = true, kTiled = false, kMasked = !kWatched, kNarrows = true;
}  // namespace stateful_lstm::cpu::LSTM_ISA

#include "cpu/simd.h"
#include "cpu/isa/avx512.h"
#include "cpu/isa/avx512bf16.h"

#include "cpu/all_kernels.h"

namespace stateful_lstm::cpu::LSTM_ISA {
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::LSTM_ISA
#include "cpu/isa/end.h"
#endif
