// What is built: the ways to multiply of each type, for each kernel. One list, which the plan chooses from, the .cu
// files build, and the emulator tests.
//
//   LSTM_SIMT(each), LSTM_TENSOR(each)     each(S, Product), tile.h: the first for all kernels, the second for those of
//                                          a launch a step alone
//   LSTM_BLOCKS, _CLUSTERS, _GRIDS(each)   each(S, Way): the kernels that stay on the device, on tensor cores
#pragma once
#include "cuda/persistent/exchange.h"

namespace stateful_lstm::cuda {

// The products forward and backward. Backward a unit has a quarter of the weights' columns and four times their
// depth: fewer warps side by side, and more slices.
template <class S, int Units>
struct TensorBlock {
  using Exchange = InBlock;
  using Forward = TensorSlices<S, 1, 1, Units / 8, 1>;
  using Backward = TensorSlices<S, 1, Units / 32, 4, 2>;
};
template <class S>
struct TensorCluster {
  using Exchange = InCluster;
  using Forward = TensorSlices<S, 1, 1, 4, 2>;
  using Backward = TensorSlices<S, 1, 4, 1, 8>;
};
// Every block takes in all rows from L2: backward they are four times as wide, and twice as many units share them. Of
// TF32, whose weights are twice as large, the second way (16) has fewer backward, for where these do not fit.
template <class S, int M, int Units>
struct TensorGrid {
  static constexpr int kBackward = Units == 16 && sizeof(S) == 4 ? 8 : 2 * Units;
  using Exchange = ThroughMemory;
  using Forward = TensorSlices<S, M, Units / 8, 1, 8>;
  using Backward = TensorSlices<S, M, kBackward / 8, 1, 8>;
};

#if defined(LSTM_SIMT)     // the emulator's own, shorter one
#elif defined(LSTM_QUICK)  // `compile.py --quick`: enough to compile all of the source
#define LSTM_SIMT(each) each(float, Simt<float, 1>) each(double, Simt<double, 1>)
#define LSTM_TENSOR(each)                                      \
  each(float, Tensor<float, 1>) each(Half, Tensor<Half, 1, 8>) \
      each(Bfloat16, Tensor<Bfloat16, 1, 2>)
#define LSTM_BLOCKS(each) each(Half, TensorBlock<Half, 64>)
#define LSTM_CLUSTERS(each) each(Bfloat16, TensorCluster<Bfloat16>)
#define LSTM_GRIDS(each) each(float, TensorGrid<float, 1, 8>) each(Half, TensorGrid<Half, 4, 16>)
#else
// For up to 16 rows, and for more. Wide tiles of units mean fewer blocks, narrow ones less shared memory in each.
#define LSTM_SIMT(each)                                                                 \
  each(float, Simt<float, 1>) each(float, Simt<float, 4>) each(double, Simt<double, 1>) \
      each(double, Simt<double, 2>) each(Half, Simt<Half, 1>) each(Bfloat16, Simt<Bfloat16, 1>)
#define LSTM_TENSOR(each)                                                                    \
  each(float, Tensor<float, 1>) each(float, Tensor<float, 4>) each(Half, Tensor<Half, 1, 8>) \
      each(Half, Tensor<Half, 4, 4>) each(Bfloat16, Tensor<Bfloat16, 1, 8>)                  \
          each(Bfloat16, Tensor<Bfloat16, 4, 4>)
#define LSTM_BLOCKS_OF(each, S) each(S, TensorBlock<S, 64>) each(S, TensorBlock<S, 128>)
#define LSTM_CLUSTERS_OF(each, S) each(S, TensorCluster<S>)
#define LSTM_GRIDS_OF(each, S)                                                            \
  each(S, TensorGrid<S, 1, 8>) each(S, TensorGrid<S, 1, 16>) each(S, TensorGrid<S, 4, 8>) \
      each(S, TensorGrid<S, 4, 16>)
#define LSTM_BLOCKS(each) \
  LSTM_BLOCKS_OF(each, float) LSTM_BLOCKS_OF(each, Half) LSTM_BLOCKS_OF(each, Bfloat16)
#define LSTM_CLUSTERS(each) \
  LSTM_CLUSTERS_OF(each, float) LSTM_CLUSTERS_OF(each, Half) LSTM_CLUSTERS_OF(each, Bfloat16)
#define LSTM_GRIDS(each) \
  LSTM_GRIDS_OF(each, float) LSTM_GRIDS_OF(each, Half) LSTM_GRIDS_OF(each, Bfloat16)
#endif

}  // namespace stateful_lstm::cuda
