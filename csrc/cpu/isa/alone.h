// Defines an instruction set for editors that read a kernel header on its own. The library never uses it:
// every file of an instruction set defines LSTM_ISA.
#pragma once
#if !defined(LSTM_ISA)
#include <utility>

#include "cpu/kernels.h"
#include "lstm_equations.h"

#define LSTM_ISA alone
#if !defined(LSTM_VECTOR_BYTES)
#define LSTM_VECTOR_BYTES 16
#endif

namespace stateful_lstm::cpu::LSTM_ISA {
constexpr int kVectorBytes = LSTM_VECTOR_BYTES;
constexpr int kTileRows = 6, kCellRows = 3;
constexpr bool kPairs = false, kTiled = false, kMasked = false, kNarrows = false;
}  // namespace stateful_lstm::cpu::LSTM_ISA
#endif
