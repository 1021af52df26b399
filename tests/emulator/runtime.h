// CUDA's runtime as far as benchmarks/gpu/microbench.cu calls it, with the emulator as the device: memory is the
// process's own, a launch is complete when it returns, and an event is a time of the host. Calls that need a GPU have
// no effect.
//
// The compiler includes it before the program's source, which needs no change.
#pragma once
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "launch.h"

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2;
inline const char* cudaGetErrorString(cudaError_t) { return "an error of the emulator's"; }

// ---- the device ----------------------------------------------------------------------------------

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrClockRate,
  cudaDevAttrMemoryClockRate,
  cudaDevAttrGlobalMemoryBusWidth,
  cudaDevAttrL2CacheSize,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
struct cudaDeviceProp {
  char name[256];
};
// EMULATOR_ARCH=80 emulates that architecture.
inline int emulated_arch() {
  const char* arch = std::getenv("EMULATOR_ARCH");
  return arch == nullptr ? 90 : std::atoi(arch);
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      *value = 16;  // not more: each thread of a block on each is a fiber
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = emulated_arch() / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = emulated_arch() % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      break;
    default:
      *value = 0;
  }
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "the emulator");
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

// ---- memory: none of its bytes is zero at first --------------------------------------------------

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (posix_memalign(memory, 256, bytes) != 0) return cudaErrorMemoryAllocation;
  std::memset(*memory, 255, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
// EMULATOR_WRONG=3 flips the first bit of the third copy.
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  static int copies = 0;
  const char* wrong = std::getenv("EMULATOR_WRONG");
  std::memcpy(to, from, bytes);
  if (wrong != nullptr && ++copies == std::atoi(wrong)) *static_cast<unsigned char*>(to) ^= 1;
  return cudaSuccess;
}

// ---- streams and events --------------------------------------------------------------------------

using cudaStream_t = stateful_lstm::emulator::Options;
using cudaEvent_t = std::chrono::steady_clock::time_point;
inline cudaError_t cudaStreamCreate(cudaStream_t*) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t*) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t& event, cudaStream_t) {
  event = std::chrono::steady_clock::now();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end - begin).count();
  return cudaSuccess;
}

// ---- graphs: what is captured runs at once, and their launches do nothing ------------------------

struct cudaGraph_t {};
struct cudaGraphExec_t {};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaSuccess; }
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned) {
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }

// ---- how many clusters there are at once ---------------------------------------------------------

struct dim3 {
  dim3(unsigned x = 1) : x(x) {}
  unsigned x, y = 1, z = 1;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, Kernel*, const cudaLaunchConfig_t*) {
  *clusters = 2;
  return cudaSuccess;
}
