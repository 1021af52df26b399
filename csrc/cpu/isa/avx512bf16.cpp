// The kernels for x86-64 processors with AVX-512 and its products of pairs of bfloat16.
#if defined(__x86_64__)
#include <immintrin.h>

#include <utility>

#include "cpu/kernels.h"

// From here on only: what stands in the headers above must run on any processor.
#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif
#include "lstm_equations.h"

namespace stateful_lstm::cpu::avx512bf16 {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 12, kCellRows = 6;
constexpr bool kPairs = true, kTiled = false, kMasked = !kWatched, kNarrows = true;
#include "cpu/simd.h"
#include "cpu/isa/avx512.h"
#include "cpu/isa/avx512bf16.h"
#include "cpu/all_kernels.h"
template Kernels<float> table<float>();
template Kernels<double> table<double>();
template Kernels<bfloat16> table<bfloat16>();
}  // namespace stateful_lstm::cpu::avx512bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
