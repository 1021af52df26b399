// The operations of the machine that a kernel may use: the only file of csrc/cuda/ that knows whether nvcc compiles it,
// or g++ for the emulator (tests/emulator/), which runs every CUDA thread as a fiber.
//
// Kernels use these names only, so that the same source runs on a GPU and is tested without one: no bare __shared__,
// threadIdx or PTX elsewhere. Blocks and grids have one dimension.
#pragma once
#include <cstdint>

#if defined(STATEFUL_LSTM_EMULATOR)

#include "../../tests/emulator/emulator.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LSTM_KERNEL __global__ void
#define LSTM_KERNEL_OF(threads) __global__ void __launch_bounds__(threads, 1)
#define LSTM_DEVICE __device__ __forceinline__

namespace stateful_lstm::cuda {

// ---- the thread's place --------------------------------------------------------------------------

LSTM_DEVICE int thread() { return threadIdx.x; }
LSTM_DEVICE int threads() { return blockDim.x; }
LSTM_DEVICE int block() { return blockIdx.x; }
LSTM_DEVICE int blocks() { return gridDim.x; }

// The block's shared memory: one piece, as large as the launch asked for, 128 bytes aligned.
LSTM_DEVICE void* shared_memory() {
  extern __shared__ __align__(128) unsigned char arena[];
  return arena;
}

// ---- synchronization within a block --------------------------------------------------------------

// A barrier of the block's threads; writes before it are visible to all after it.
LSTM_DEVICE void block_barrier() { __syncthreads(); }
// The same for the 32 threads of a warp.
LSTM_DEVICE void warp_barrier() { __syncwarp(); }
// The value of lane ^ mask, or of a lane, of the same warp. All 32 lanes call it.
template <class T>
LSTM_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
LSTM_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

// ---- synchronization between blocks: words of global memory --------------------------------------

// A flag that another block waits for. Writes before the release are visible after the acquire that reads it.
LSTM_DEVICE uint32_t load_acquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
LSTM_DEVICE void store_release(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
LSTM_DEVICE void add_release(uint32_t* flag, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// Call it in a loop that waits for another block; the emulator then runs other threads.
LSTM_DEVICE void emulator_yield() {}

// 16 bytes that another block has written: read from L2, since L1 is not coherent.
struct alignas(16) Words {
  uint32_t w[4];
};
LSTM_DEVICE Words load_past_l1(const Words* from) {
  Words x;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.w[0]), "=r"(x.w[1]), "=r"(x.w[2]), "=r"(x.w[3])
               : "l"(from)
               : "memory");
  return x;
}

// ---- synchronization within a cluster of blocks (sm_90 and later) --------------------------------

LSTM_DEVICE int cluster_rank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
LSTM_DEVICE int cluster_blocks() {
  uint32_t size = 1;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}
// A split barrier of all threads of the cluster: writes before arrive, also to shared memory of any block, are visible
// after wait.
LSTM_DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
LSTM_DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// The address in another block's shared memory that corresponds to `own`, for reads and writes.
template <class T>
LSTM_DEVICE T* cluster_shared(T* own, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(own), "r"(rank));
  return reinterpret_cast<T*>(address);
#else
  return own;
#endif
}

// ---- asynchronous copies from global to shared memory (sm_80 and later) --------------------------

// 16 bytes, both addresses 16-byte aligned. They arrive at the wait, and are visible to others after a barrier that
// follows it.
LSTM_DEVICE void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  *static_cast<int4*>(shared) = *static_cast<const int4*>(global);
#endif
}
// Ends a group of copies.
LSTM_DEVICE void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most `pending` of the newest groups are still in flight.
template <int pending>
LSTM_DEVICE void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// ---- tensor cores (sm_80 and later): d += a . b, by a whole warp ---------------------------------
//
// Fragments are laid out as in the PTX manual: lane = 4 * group + pair. For 16-bit numbers, a (16, 16), b (16,
// 8), d (16, 8): a[0] holds row `group`, columns 2 * pair and + 1; a[1] row group + 8; a[2], a[3] the same 8
// columns on. b[0] holds column `group`, rows 2 * pair and + 1; b[1] 8 rows on. d[0], d[1]: row `group`,
// columns 2 * pair and + 1; d[2], d[3]: row group + 8. For tf32, a (16, 8), b (8, 8): a[0] row `group`, column
// `pair`; a[1] row group + 8; a[2], a[3] 4 columns on; b[0] column `group`, row `pair`; b[1] 4 rows on.

LSTM_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
LSTM_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
struct Tf32 {};
LSTM_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Tf32) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace stateful_lstm::cuda

#endif
