// How a kernel is started, on a GPU or in the emulator; the only place that does.
#pragma once
#include <cstdint>

#include "device.h"

namespace stateful_lstm::cuda {

struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  int cluster = 1;  // blocks that share their shared memory; above 1 on sm_90 and later only
};

#if defined(STATEFUL_LSTM_EMULATOR)

}  // namespace stateful_lstm::cuda
#include "../../tests/emulator/launch.h"
namespace stateful_lstm::cuda {

using Stream = emulator::Options;  // of the machine that stands in for a device

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Grid& grid, const Stream& stream,
            const Args&... args) {
  emulator::launch(
      {int(grid.blocks), grid.threads, grid.cluster, size_t(grid.shared_bytes), stream}, kernel,
      args...);
}

#else

using Stream = cudaStream_t;

// What went wrong, for the one file that knows exceptions' users: thrown by check().
struct Error {
  cudaError_t code;
  const char* what;
};
inline void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw Error{code, what};
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
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = grid.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  if (grid.cluster > 1) {
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, Params(args)...), "starting a kernel");
}

#endif

}  // namespace stateful_lstm::cuda
