// Undoes the settings of begin.h.
#if !defined(__clang__)
#pragma GCC pop_options
#elif defined(LSTM_TARGET)
#pragma clang attribute pop
#endif
#undef LSTM_ISA
#undef LSTM_TARGET
#undef LSTM_RARE
