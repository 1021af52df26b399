// All kernels in a few variants of float32: quick to compile, for smoke_kernels.py.
#include "cuda/tile_gemm.h"

#define LSTM_SIMT(each) each(float, Simt<float, 1>)
#define LSTM_TENSOR(each) each(float, Tensor<float, 1>)
#define LSTM_BLOCKS(each) each(float, TensorBlock<float, 64>)
#define LSTM_CLUSTERS(each) each(float, TensorCluster<float>)
#define LSTM_GRIDS(each) each(float, TensorGrid<float, 1, 8>) each(float, TensorGrid<float, 4, 16>)
#define LSTM_MODULE smoke_kernels
#include "cuda/launcher.cu"
#include "kernels.cpp"
