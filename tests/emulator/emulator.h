// csrc/cuda/device.h for g++: the same names, for threads that are fibers. That file documents them; the comments here
// say what the emulator does beyond that.
//
// The last two arguments of functions that may wait are the caller's file and line, for messages.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "halves.h"

#define LSTM_KERNEL void
#define LSTM_KERNEL_OF(threads) void
#define LSTM_DEVICE inline

// ---- the implementation: device.cpp --------------------------------------------------------------
//
// It is not in this header, since kernels are compiled with ThreadSanitizer and the emulator is not.

namespace stateful_lstm::emulator {

struct Where {
  int thread, threads, block, blocks, cluster_rank, cluster_blocks;
};
Where where();
void* shared_memory();
void* cluster_shared(void* own, int rank);

void block_barrier(const char* file, int line);
void warp_barrier(const char* file, int line);
void cluster_arrive(const char* file, int line);
void cluster_wait(const char* file, int line);
void spin(const char* file, int line);

// Notes that a flag is about to be read: a thread that only reads flags would never let others write.
void polls(const char* file, int line);
// Notes that a flag was written: the thread may lose its turn.
void published();

// Whether this process runs the mutant of that number (mutate.py).
bool is_mutant(int number);

// Replaces 32 bytes by those of `lane`; all lanes call it. It is no barrier and orders no memory.
void shuffle_bytes(void* bytes, int lane, const char* name, const char* file, int line);

void copy_async(void* shared, const void* global, const char* file, int line);
void copy_async_commit();
void copy_async_wait(int pending);

enum class Numbers { half, bfloat16, tf32 };
void mma(float* d, const uint32_t* a, const uint32_t* b, Numbers numbers, const char* file,
         int line);

template <class T>
inline T shuffle(T value, int lane, const char* name, const char* file, int line) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 32);
  alignas(8) unsigned char bytes[32] = {};
  std::memcpy(bytes, &value, sizeof(T));
  shuffle_bytes(bytes, lane, name, file, line);
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

}  // namespace stateful_lstm::emulator

// ---- the names -----------------------------------------------------------------------------------

namespace stateful_lstm::cuda {

LSTM_DEVICE int thread() { return emulator::where().thread; }
LSTM_DEVICE int threads() { return emulator::where().threads; }
LSTM_DEVICE int block() { return emulator::where().block; }
LSTM_DEVICE int blocks() { return emulator::where().blocks; }
LSTM_DEVICE void* shared_memory() { return emulator::shared_memory(); }

LSTM_DEVICE void block_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::block_barrier(file, line);
}
LSTM_DEVICE void warp_barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::warp_barrier(file, line);
}
template <class T>
LSTM_DEVICE T shuffle_xor(T value, int mask, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  return emulator::shuffle(value, (thread() & 31) ^ mask, "shuffle_xor", file, line);
}
template <class T>
LSTM_DEVICE T shuffle(T value, int lane, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return emulator::shuffle(value, lane, "shuffle", file, line);
}

LSTM_DEVICE uint32_t load_acquire(const uint32_t* flag, const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
  emulator::polls(file, line);
  return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}
LSTM_DEVICE void store_release(uint32_t* flag, uint32_t value) {
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
  emulator::published();
}
LSTM_DEVICE void add_release(uint32_t* flag, uint32_t value) {
  __atomic_fetch_add(flag, value, __ATOMIC_RELEASE);
  emulator::published();
}
LSTM_DEVICE void emulator_yield(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::spin(file, line);
}

struct alignas(16) Words {
  uint32_t w[4];
};
LSTM_DEVICE Words load_past_l1(const Words* from) { return *from; }

LSTM_DEVICE int cluster_rank() { return emulator::where().cluster_rank; }
LSTM_DEVICE int cluster_blocks() { return emulator::where().cluster_blocks; }
LSTM_DEVICE void cluster_arrive(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::cluster_arrive(file, line);
}
LSTM_DEVICE void cluster_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::cluster_wait(file, line);
}
template <class T>
LSTM_DEVICE T* cluster_shared(T* own, int rank) {
  return static_cast<T*>(emulator::cluster_shared(own, rank));
}

// The destination holds NaN until the wait, and the source is read at the wait.
LSTM_DEVICE void copy_async(void* shared, const void* global, const char* file = __builtin_FILE(),
                            int line = __builtin_LINE()) {
  emulator::copy_async(shared, global, file, line);
}
LSTM_DEVICE void copy_async_commit() { emulator::copy_async_commit(); }
template <int pending>
LSTM_DEVICE void copy_async_wait() {
  emulator::copy_async_wait(pending);
}

LSTM_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half,
                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::mma(d, a, b, emulator::Numbers::half, file, line);
}
LSTM_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16,
                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::mma(d, a, b, emulator::Numbers::bfloat16, file, line);
}
struct Tf32 {};
LSTM_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Tf32,
                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::mma(d, a, b, emulator::Numbers::tf32, file, line);
}

// Weaker operations, for kernels that are wrong on purpose.
namespace mutant {

LSTM_DEVICE uint32_t load_relaxed(const uint32_t* flag, const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
  emulator::polls(file, line);
  return __atomic_load_n(flag, __ATOMIC_RELAXED);
}
LSTM_DEVICE void store_relaxed(uint32_t* flag, uint32_t value) {
  __atomic_store_n(flag, value, __ATOMIC_RELAXED);
  emulator::published();
}
LSTM_DEVICE void add_relaxed(uint32_t* flag, uint32_t value) {
  __atomic_fetch_add(flag, value, __ATOMIC_RELAXED);
  emulator::published();
}

}  // namespace mutant
}  // namespace stateful_lstm::cuda
