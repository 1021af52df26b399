#include "toys.h"

#include "cuda/device.h"

namespace stateful_lstm::toys {
namespace {

using namespace cuda;

// The next thread's number, through shared memory.
LSTM_KERNEL no_barrier_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());
  all[thread()] = x[thread()];                    // no_barrier writes
  y[thread()] = all[(thread() + 1) % threads()];  // no_barrier reads
}

// A shuffle synchronizes the lanes but orders no memory.
LSTM_KERNEL shuffle_for_barrier_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());
  all[thread()] = x[thread()];  // shuffle_for_barrier writes
  const int lane = shuffle(thread(), (thread() + 1) % 32);
  y[thread()] = all[lane];  // shuffle_for_barrier reads
}

LSTM_KERNEL no_second_barrier_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());
  for (int round = 0; round < 2; ++round) {
    all[thread()] = x[round * threads() + thread()];  // no_second_barrier writes
    block_barrier();
    y[round * threads() + thread()] = all[(thread() + 1) % threads()];  // no_second_barrier reads
  }
}

LSTM_KERNEL no_copy_wait_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());  // (4 threads)
  copy_async(all + 4 * thread(), x + 4 * thread());
  copy_async_commit();
  block_barrier();
  for (int i = 0; i < 4; ++i) y[4 * thread() + i] = all[4 * thread() + i];
}

LSTM_KERNEL no_copy_commit_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());
  copy_async(all + 4 * thread(), x + 4 * thread());
  copy_async_wait<0>();
  block_barrier();
  for (int i = 0; i < 4; ++i) y[4 * thread() + i] = all[4 * thread() + i];
}

// Waits for all groups but the newest, which is the one it needs.
LSTM_KERNEL too_few_copies_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());
  copy_async_commit();
  copy_async(all + 4 * thread(), x + 4 * thread());
  copy_async_commit();
  copy_async_wait<1>();
  block_barrier();
  for (int i = 0; i < 4; ++i) y[4 * thread() + i] = all[4 * thread() + i];
}

LSTM_KERNEL exit_before_barrier_kernel() {
  if (thread() == 5) return;
  block_barrier();  // lacks thread 5
}

LSTM_KERNEL exit_before_warp_barrier_kernel() {
  if (thread() == 37) return;
  warp_barrier();  // lacks thread 37
}

LSTM_KERNEL divergent_barrier_kernel() {
  if (thread() < 32) {
    block_barrier();  // one of two
  } else {
    block_barrier();  // two of two
  }
}

// Each of two blocks waits for the other one first.
LSTM_KERNEL flags_in_a_circle_kernel(uint32_t* flags) {
  if (thread() == 0) {
    while (load_acquire(&flags[1 - block()]) == 0) emulator_yield();  // circle
    store_release(&flags[block()], 1);
  }
  block_barrier();  // after the circle
}

LSTM_KERNEL spin_without_yield_kernel(uint32_t* flag) {
  while (load_acquire(flag) == 0) {  // no yield
  }
}

LSTM_KERNEL half_the_block_waits_kernel() {
  if (thread() < 32) {
    block_barrier();  // one half
  } else {
    warp_barrier();
    cluster_arrive();
    cluster_wait();  // other half
  }
}

LSTM_KERNEL overrun_kernel() {
  auto* all = static_cast<float*>(shared_memory());  // (threads)
  all[thread() + 1] = 0;                             // overrun writes
}

// Only the thread that waits for a copy sees it before a barrier.
LSTM_KERNEL copy_without_barrier_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());  // (4 threads)
  copy_async(all + 4 * thread(), x + 4 * thread());
  copy_async_commit();
  block_barrier();                                      // too early
  copy_async_wait<0>();                                 // copy_without_barrier writes
  y[thread()] = all[4 * ((thread() + 1) % threads())];  // copy_without_barrier reads
}

// Block 0 writes to block 1, which may not have begun.
LSTM_KERNEL write_before_start_kernel() {
  auto* own = static_cast<float*>(shared_memory());
  if (block() == 0) *cluster_shared(own + thread(), 1) = 0;
  cluster_arrive();
  cluster_wait();
}

// Block 1 leaves without waiting for block 0, which writes to it.
LSTM_KERNEL write_into_exited_block_kernel() {
  auto* own = static_cast<float*>(shared_memory());
  cluster_arrive();
  cluster_wait();
  if (block() == 0) *cluster_shared(own + thread(), 1) = 0;
}

LSTM_KERNEL wait_without_arrive_kernel() {
  cluster_wait();  // not arrived
}

LSTM_KERNEL no_flag_kernel(const float* x, float* place, float* y) {
  if (block() == 0) {
    place[thread()] = x[thread()];  // no_flag writes
  } else {
    y[thread()] = place[thread()];  // no_flag reads
  }
}

LSTM_KERNEL relaxed_flag_kernel(const float* x, float* place, float* y, uint32_t* flag) {
  if (block() == 0) {
    place[thread()] = x[thread()];  // relaxed_flag writes
    block_barrier();
    if (thread() == 0) mutant::store_relaxed(flag, 1);
  } else {
    if (thread() == 0) {
      while (load_acquire(flag) == 0) emulator_yield();
    }
    block_barrier();
    y[thread()] = place[thread()];  // relaxed_flag reads
  }
}

emulator::Grid one_block(int threads, int floats, Options options) {
  return {1, threads, 1, floats * sizeof(float), options};
}

}  // namespace

void no_barrier(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, threads, options), no_barrier_kernel, x, y);
}

void shuffle_for_barrier(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, threads, options), shuffle_for_barrier_kernel, x, y);
}

void no_second_barrier(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, threads, options), no_second_barrier_kernel, x, y);
}

void no_copy_wait(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, 4 * threads, options), no_copy_wait_kernel, x, y);
}

void no_copy_commit(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, 4 * threads, options), no_copy_commit_kernel, x, y);
}

void too_few_copies(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, 4 * threads, options), too_few_copies_kernel, x, y);
}

void exit_before_barrier(int threads, Options options) {
  emulator::launch(one_block(threads, 0, options), exit_before_barrier_kernel);
}

void exit_before_warp_barrier(int threads, Options options) {
  emulator::launch(one_block(threads, 0, options), exit_before_warp_barrier_kernel);
}

void divergent_barrier(int threads, Options options) {
  emulator::launch(one_block(threads, 0, options), divergent_barrier_kernel);
}

void flags_in_a_circle(uint32_t* flags, Options options) {
  emulator::launch({2, 32, 1, 0, options}, flags_in_a_circle_kernel, flags);
}

void spin_without_yield(uint32_t* flag, Options options) {
  emulator::launch({1, 1, 1, 0, options}, spin_without_yield_kernel, flag);
}

void half_the_block_waits(int threads, Options options) {
  emulator::launch(one_block(threads, 0, options), half_the_block_waits_kernel);
}

void overrun(int threads, Options options) {
  emulator::launch(one_block(threads, threads, options), overrun_kernel);
}

void write_into_exited_block(int threads, Options options) {
  emulator::launch({2, threads, 2, threads * sizeof(float), options},
                   write_into_exited_block_kernel);
}

void write_before_start(int threads, Options options) {
  emulator::launch({2, threads, 2, threads * sizeof(float), options}, write_before_start_kernel);
}

void copy_without_barrier(const float* x, float* y, int threads, Options options) {
  emulator::launch(one_block(threads, 4 * threads, options), copy_without_barrier_kernel, x, y);
}

void wait_without_arrive(Options options) {
  emulator::launch(one_block(1, 0, options), wait_without_arrive_kernel);
}

void no_flag(const float* x, float* place, float* y, int threads, Options options) {
  emulator::launch({2, threads, 1, 0, options}, no_flag_kernel, x, place, y);
}

void relaxed_flag(const float* x, float* place, float* y, uint32_t* flag, int threads,
                  Options options) {
  emulator::launch({2, threads, 1, 0, options}, relaxed_flag_kernel, x, place, y, flag);
}

}  // namespace stateful_lstm::toys
