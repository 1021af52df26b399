// All kernels in two ways to multiply: compiled in a moment, for few.py.
#include "../../csrc/cuda/tile.h"

#define LSTM_BUILT(each) each(float, Simt<float, 1>) each(float, Tensor<float, 1>)
#define LSTM_MODULE few
#include "../../csrc/cuda/entry.cu"
#include "kernels.cpp"
