// The variants that are built: how a kernel multiplies, for each type. One list, which the plan chooses from, the .cu
// files compile and the emulator tests.
//
//   LSTM_SIMT(each), LSTM_TENSOR(each)     each(S, Product), tile_gemm.h: the first for all kernels, the second for
//                                          per_step and the inference step
//   LSTM_BLOCKS, _CLUSTERS, _GRIDS(each)   each(S, Variant), below: the persistent kernels on tensor cores
#pragma once
#include "cuda/persistent/exchange.h"
#include "cuda/persistent/split_k.h"

namespace stateful_lstm::cuda {

// The tiles forward and backward. Backward a unit has a quarter of the weights' columns and four times their depth, so
// a block has fewer warps side by side and more slices.
template <class S, int Units>
struct TensorBlock {
  using Exchange = InBlock;
  using ForwardTile = SplitKTile<S, 1, 1, Units / 8, 1>;
  using BackwardTile = SplitKTile<S, 1, Units / 32, 4, 2>;
};
template <class S>
struct TensorCluster {
  using Exchange = InCluster;
  using ForwardTile = SplitKTile<S, 1, 1, 4, 2>;
  using BackwardTile = SplitKTile<S, 1, 4, 1, 8>;
};
// Every block reads all rows from L2: backward they are four times as wide, so twice as many units share them. TF32
// weights take twice the bytes, so its variant of 16 units has fewer units backward, for where the wider tile does
// not fit.
template <class S, int M, int Units>
struct TensorGrid {
  static constexpr int kBackward = Units == 16 && sizeof(S) == 4 ? 8 : 2 * Units;
  using Exchange = ThroughMemory;
  using ForwardTile = SplitKTile<S, M, Units / 8, 1, 8>;
  using BackwardTile = SplitKTile<S, M, kBackward / 8, 1, 8>;
};

#if defined(LSTM_SIMT)     // the emulator has its own, shorter list
#elif defined(LSTM_QUICK)  // `compile_cuda.py --quick`: enough to compile all of the source
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

// A kernel's launches forward and backward in one variant, as an explicit instantiation: its definition, or with
// `extern` as prefix its declaration.
#define LSTM_LAUNCHES(prefix, kernel, S, ...)                                                      \
  prefix template void launch_forward_##kernel<S, __VA_ARGS__>(const ForwardArgs<S>&, const Grid&, \
                                                               uint32_t*, const Stream&);          \
  prefix template void launch_backward_##kernel<S, __VA_ARGS__>(                                   \
      const BackwardArgs<S>&, const Grid&, uint32_t*, const Stream&);
#define LSTM_STEP_LAUNCH(prefix, S, ...)                                                  \
  prefix template void launch_inference_step<S, __VA_ARGS__>(const InferenceStepArgs<S>&, \
                                                             const Stream&);

}  // namespace stateful_lstm::cuda
