// Declares the kernels that the other .cu files compile, so that launcher.cu does not compile them again.
#pragma once
#include "cuda/inference_step_gemv.h"
#include "cuda/instances/list.h"
#include "cuda/per_step.h"
#include "cuda/persistent/block_simt.h"
#include "cuda/persistent/cluster_simt.h"
#include "cuda/persistent/grid_simt.h"
#include "cuda/persistent/tensor_core.h"

namespace stateful_lstm::cuda {
#define LSTM_ELSEWHERE(S, ...)                    \
  LSTM_LAUNCHES(extern, per_step, S, __VA_ARGS__) \
  LSTM_STEP_LAUNCH(extern, S, __VA_ARGS__)
LSTM_SIMT(LSTM_ELSEWHERE)
LSTM_TENSOR(LSTM_ELSEWHERE)
#undef LSTM_ELSEWHERE
#define LSTM_ELSEWHERE(S, ...)                              \
  LSTM_LAUNCHES(extern, persistent_block, S, __VA_ARGS__)   \
  LSTM_LAUNCHES(extern, persistent_cluster, S, __VA_ARGS__) \
  LSTM_LAUNCHES(extern, persistent_grid, S, __VA_ARGS__)
LSTM_SIMT(LSTM_ELSEWHERE)
#undef LSTM_ELSEWHERE
#define LSTM_ELSEWHERE(S, ...) LSTM_LAUNCHES(extern, tensor_core, S, __VA_ARGS__)
LSTM_BLOCKS(LSTM_ELSEWHERE)
LSTM_CLUSTERS(LSTM_ELSEWHERE)
LSTM_GRIDS(LSTM_ELSEWHERE)
#undef LSTM_ELSEWHERE
}  // namespace stateful_lstm::cuda
