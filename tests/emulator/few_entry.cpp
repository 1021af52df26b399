// What the binding calls, with two ways to multiply: compiled in a moment, for few_layers.py.
#include "../../csrc/cuda/tile.h"

#define LSTM_BUILT(each) each(float, Simt<float, 1>) each(float, Tensor<float, 1>)
#include "../../csrc/cuda/entry.cu"
