// Compiles the following code for one instruction set, until end.h. The file of an instruction set defines
// first:
//   LSTM_ISA      namespace of the kernels, inside stateful_lstm::cpu
//   LSTM_TARGET   the compiler's names of the instructions beyond the baseline, if any
//   LSTM_RARE     if no production machine selects these kernels. They are then compiled with fewer optimizations,
//                 which halves the compile time. Results are the same: the source marks every product that may be
//                 fused with a sum, and both levels fuse it
// It also includes all standard headers first. Otherwise an inline function of a standard header would be
// compiled for these instructions, and the linker might keep that copy for all processors.
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
