// Small kernels that test the emulator itself. Each takes its few arguments directly, not in a struct.
#pragma once
#include <cstdint>

#include "launch.h"

namespace stateful_lstm::toys {

using emulator::Options;

// ---- toys.cpp: right ones ------------------------------------------------------------------------

// The sum of x (blocks, threads) over threads; threads: a power of two.
void block_sum(const float* x, float* sum, int blocks, int threads, Options options);
// The same over the lanes of each warp, plus x of lane 31. x, sum: (threads)
void warp_sum(const float* x, float* sum, int threads, Options options);
// y[i] = x[lanes in reverse order]. x, y: (threads)
void warp_reverse(const float* x, float* y, int threads, Options options);
// d (16, 8) += a (16, K) . b (K, 8), of halves, bfloat16s (as their bits) or floats.
void mma_half(const uint16_t* a, const uint16_t* b, float* d, int K, Options options);
void mma_bfloat16(const uint16_t* a, const uint16_t* b, float* d, int K, Options options);
void mma_tf32(const float* a, const float* b, float* d, int K, Options options);
// Block 0 passes the rows of x (items, threads) through a place for one row; block 1 computes y = 2 x.
// flags: 2 zeros; place: (threads)
void hand_over(const float* x, float* place, float* y, uint32_t* flags, int items, int threads,
               Options options);
// `rounds` times, each number of a ring becomes the sum of its neighbours'. x: (2, blocks), the result
// in x[rounds % 2]; counter: a zero
void ring(float* x, uint32_t* counter, int blocks, int threads, int rounds, Options options);
// `rounds` times, every block of a cluster gathers x (blocks, threads) of all, and takes the sum.
void cluster_sum(const float* x, float* y, int cluster, int threads, int rounds, Options options);
// y = sums of the rows of x (rows, 4 threads), which asynchronous copies load. y: (rows)
void stream(const float* x, float* y, int rows, int threads, Options options);
// Only barriers, to time them.
void barriers(int blocks, int threads, int rounds, Options options);

// ---- wrong_toys.cpp: each has one fault ----------------------------------------------------------

void no_barrier(const float* x, float* y, int threads, Options options);
void shuffle_for_barrier(const float* x, float* y, int threads, Options options);
void no_copy_wait(const float* x, float* y, int threads, Options options);
void no_copy_commit(const float* x, float* y, int threads, Options options);
void too_few_copies(const float* x, float* y, int threads, Options options);
void copy_without_barrier(const float* x, float* y, int threads, Options options);
void exit_before_barrier(int threads, Options options);
void exit_before_warp_barrier(int threads, Options options);
void divergent_barrier(int threads, Options options);
void flags_in_a_circle(uint32_t* flags, Options options);
void spin_without_yield(uint32_t* flag, Options options);
void half_the_block_waits(int threads, Options options);
void overrun(int threads, Options options);
void write_before_start(int threads, Options options);
void write_into_exited_block(int threads, Options options);
void wait_without_arrive(Options options);
// The block's sum through global memory, block 1 reading what block 0 wrote. flag: a zero; y: (threads)
void no_flag(const float* x, float* place, float* y, int threads, Options options);
void relaxed_flag(const float* x, float* place, float* y, uint32_t* flag, int threads,
                  Options options);
// A late reader of a place that is overwritten.
void no_second_barrier(const float* x, float* y, int threads, Options options);

}  // namespace stateful_lstm::toys
