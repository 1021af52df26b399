// What is built: the ways to multiply (tile.h) of each type, for each kernel. One list, which the plan chooses
// from, the .cu files build, and the emulator tests.
#pragma once
#include "tile.h"

namespace stateful_lstm::cuda {

// each(S, Product): for up to 16 rows, and for more. Wide tiles of units mean fewer blocks, narrow ones less
// shared memory in each.
#if defined(LSTM_BUILT)    // the emulator's own, shorter one
#elif defined(LSTM_QUICK)  // `compile.py --quick`: enough to compile all of the source
#define LSTM_BUILT(each)                                                                  \
  each(float, Simt<float, 1>) each(float, Tensor<float, 1>) each(double, Simt<double, 1>) \
      each(Half, Tensor<Half, 1, 8>) each(Bfloat16, Tensor<Bfloat16, 1, 2>)
#else
#define LSTM_BUILT(each)                                                                          \
  each(float, Simt<float, 1>) each(float, Simt<float, 4>) each(float, Tensor<float, 1>)           \
      each(float, Tensor<float, 4>) each(double, Simt<double, 1>) each(double, Simt<double, 2>)   \
          each(Half, Simt<Half, 1>) each(Half, Tensor<Half, 1, 8>) each(Half, Tensor<Half, 1, 2>) \
              each(Half, Tensor<Half, 4, 4>) each(Half, Tensor<Half, 4, 2>)                       \
                  each(Bfloat16, Simt<Bfloat16, 1>) each(Bfloat16, Tensor<Bfloat16, 1, 8>)        \
                      each(Bfloat16, Tensor<Bfloat16, 1, 2>)                                      \
                          each(Bfloat16, Tensor<Bfloat16, 4, 4>)                                  \
                              each(Bfloat16, Tensor<Bfloat16, 4, 2>)
#endif

}  // namespace stateful_lstm::cuda
