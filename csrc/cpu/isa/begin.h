// Compiles for one instruction set from here on, until end.h. A file of an instruction set defines before:
//   LSTM_ISA      the namespace of the kernels, inside stateful_lstm::cpu
//   LSTM_TARGET   the compiler's names of the instructions beyond the baseline, if there are any
//   LSTM_RARE     if no production machine chooses these kernels: they are then compiled with fewer optimizations,
//                 which halves the time. The results are the same: every product that may be fused with a sum is
//                 written as such, and both levels fuse it
// and includes every standard header before: an inline function of one, compiled here for these instructions, might
// be the copy that the linker keeps for all processors.
#define LSTM_PRAGMA_TEXT(text) _Pragma(#text)
#define LSTM_PRAGMA(text) LSTM_PRAGMA_TEXT(text)

#if defined(__clang__)
#if defined(LSTM_TARGET)
LSTM_PRAGMA(clang attribute push(__attribute__((target(LSTM_TARGET))), apply_to = function))
#endif
#else
#pragma GCC push_options
#if defined(LSTM_TARGET)
LSTM_PRAGMA(GCC target(LSTM_TARGET))
#endif
#if defined(LSTM_RARE) && defined(__OPTIMIZE__)
#pragma GCC optimize("O1,expensive-optimizations")
#endif
#endif

#include "lstm_equations.h"
