// Launches a kernel, on a GPU or in the emulator. No other file does.
#pragma once
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/call.h"
#include "cuda/device.h"

namespace stateful_lstm::cuda {

#if defined(STATEFUL_LSTM_EMULATOR)

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Grid& grid, const Stream& stream,
            const Args&... args) {
  if (grid.blocks == 0) return;
  emulator::launch(
      {int(grid.blocks), grid.threads, grid.cluster, size_t(grid.shared_bytes), stream}, kernel,
      args...);
}
inline void clear(void* memory, size_t bytes, const Stream&) { std::memset(memory, 0, bytes); }

#else

inline void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw std::runtime_error(std::string("stateful_lstm: ") + what +
                             " failed: " + cudaGetErrorString(code));
}
inline void clear(void* memory, size_t bytes, const Stream& stream) {
  check(cudaMemsetAsync(memory, 0, bytes, stream), "clearing memory");
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Grid& grid, const Stream& stream,
            const Args&... args) {
  if (grid.blocks == 0) return;    // a call without rows; CUDA refuses an empty grid
  constexpr int kFree = 48 << 10;  // bytes of shared memory that a block gets without a request
  if (grid.shared_bytes > kFree)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          "requesting shared memory");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (grid.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = grid.cluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  // Without it a kernel of another stream could hold the SMs that half of the blocks wait for.
  if (grid.cooperative) {
    cudaLaunchAttribute& cooperative = attributes[config.numAttrs++];
    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, Params(args)...), "launching a kernel");
}

#endif

}  // namespace stateful_lstm::cuda
