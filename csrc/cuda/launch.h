// How a kernel is started, on a GPU or in the emulator; the only place that does.
#pragma once
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/call.h"
#include "cuda/device.h"

namespace stateful_lstm::cuda {

struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  int cluster = 1;  // blocks that share their shared memory; above 1 on sm_90 and later only
  bool together =
      false;  // whether all blocks must be on the device at once, or they would wait for ever
  int64_t words = 0;  // of memory, zero at first, by which they wait for each other
};

#if defined(STATEFUL_LSTM_EMULATOR)

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Grid& grid, const Stream& stream,
            const Args&... args) {
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
  constexpr int kFree = 48 << 10;  // bytes of shared memory to be had without asking
  if (grid.shared_bytes > kFree)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          "asking for shared memory");
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
  if (grid.together) {  // another stream's kernel could hold the place that half of the blocks wait for
    cudaLaunchAttribute& cooperative = attributes[config.numAttrs++];
    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, Params(args)...), "starting a kernel");
}

#endif

}  // namespace stateful_lstm::cuda
