#include "toys.h"

#include "cuda/device.h"

namespace stateful_lstm::toys {
namespace {

using namespace cuda;

LSTM_KERNEL block_sum_kernel(const float* x, float* sum) {
  auto* part = static_cast<float*>(shared_memory());  // (threads)
  part[thread()] = x[block() * threads() + thread()];
  block_barrier();
  for (int half = threads() / 2; half > 0; half /= 2) {
    if (thread() < half) part[thread()] += part[thread() + half];
    block_barrier();
  }
  // Written by another thread.
  if (thread() == threads() - 1) sum[block()] = part[0];
}

LSTM_KERNEL warp_sum_kernel(const float* x, float* sum) {
  float value = x[thread()];
  const float last = shuffle(value, 31);
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  sum[thread()] = value + last;
}

LSTM_KERNEL warp_reverse_kernel(const float* x, float* y) {
  auto* own = static_cast<float*>(shared_memory()) + thread() / 32 * 32;  // (32)
  const int lane = thread() % 32;
  own[lane] = x[thread()];
  warp_barrier();
  y[thread()] = own[31 - lane];
}

// Two 16-bit numbers, `stride` apart.
LSTM_DEVICE uint32_t two(const uint16_t* first, int stride) {
  return first[0] | uint32_t{first[stride]} << 16;
}

template <class Number>
LSTM_KERNEL mma_kernel(const uint16_t* a, const uint16_t* b, float* d, int K) {
  const int group = thread() / 4, pair = thread() % 4;
  float sum[4] = {};
  for (int k = 0; k < K; k += 16) {
    uint32_t left[4], right[2];
    for (int i = 0; i < 4; ++i) {
      left[i] = two(a + (group + i % 2 * 8) * K + k + pair * 2 + i / 2 * 8, 1);
    }
    for (int i = 0; i < 2; ++i) right[i] = two(b + (k + pair * 2 + i * 8) * 8 + group, 8);
    mma(sum, left, right, Number{});
  }
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair * 2 + i % 2] += sum[i];
}

LSTM_DEVICE uint32_t word(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof(bits));
  return bits;
}

LSTM_KERNEL mma_tf32_kernel(const float* a, const float* b, float* d, int K) {
  const int group = thread() / 4, pair = thread() % 4;
  float sum[4] = {};
  for (int k = 0; k < K; k += 8) {
    uint32_t left[4], right[2];
    for (int i = 0; i < 4; ++i) {
      left[i] = word(a[(group + i % 2 * 8) * K + k + pair + i / 2 * 4]);
    }
    for (int i = 0; i < 2; ++i) right[i] = word(b[(k + pair + i * 4) * 8 + group]);
    mma(sum, left, right, Tf32{});
  }
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair * 2 + i % 2] += sum[i];
}

// The whole block waits until a flag is at least `value`.
LSTM_DEVICE void wait_for(const uint32_t* flag, uint32_t value) {
  if (thread() == 0) {
    while (load_acquire(flag) < value) emulator_yield();
  }
  block_barrier();
}

LSTM_KERNEL hand_over_kernel(const float* x, float* place, float* y, uint32_t* flags, int items) {
  uint32_t* full = &flags[0];
  uint32_t* empty = &flags[1];
  for (int item = 0; item < items; ++item) {
    const int at = item * threads() + thread();
    if (block() == 0) {
      wait_for(empty, item);
      place[thread()] = x[at];
      block_barrier();
      if (thread() == 0) store_release(full, item + 1);
    } else {
      wait_for(full, item + 1);
      y[at] = 2 * place[(thread() + 1) % threads()];
      block_barrier();
      if (thread() == 0) store_release(empty, item + 1);
    }
  }
}

LSTM_KERNEL ring_kernel(float* x, uint32_t* counter, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const float* from = x + round % 2 * blocks();
    float* to = x + (round + 1) % 2 * blocks();
    if (thread() == threads() - 1) {
      to[block()] = from[(block() + 1) % blocks()] + from[(block() + blocks() - 1) % blocks()];
    }
    block_barrier();
    if (thread() == 0) add_release(counter, 1);
    wait_for(counter, (round + 1) * blocks());
  }
}

LSTM_KERNEL cluster_sum_kernel(const float* x, float* y, int rounds) {
  auto* all = static_cast<float*>(shared_memory());  // (2, cluster, threads)
  const int size = cluster_blocks() * threads();
  float value = x[block() * threads() + thread()];
  cluster_arrive();  // no block may write to another before that one has begun
  cluster_wait();
  for (int round = 0; round < rounds; ++round) {
    float* now = all + round % 2 * size;
    float* own = now + cluster_rank() * threads() + thread();
    for (int rank = 0; rank < cluster_blocks(); ++rank) *cluster_shared(own, rank) = value;
    cluster_arrive();
    cluster_wait();
    value = 0;
    for (int rank = 0; rank < cluster_blocks(); ++rank) {
      value += now[rank * threads() + (thread() + 1) % threads()];
    }
  }
  y[block() * threads() + thread()] = value;
}

LSTM_KERNEL stream_kernel(const float* x, float* y, int rows) {
  auto* stages = static_cast<float*>(shared_memory());  // (2, 4 threads)
  const int width = 4 * threads();
  const auto fetch = [&](int row) {
    if (row < rows) {
      copy_async(stages + row % 2 * width + 4 * thread(), x + row * width + 4 * thread());
    }
    copy_async_commit();
  };
  fetch(0);
  for (int row = 0; row < rows; ++row) {
    fetch(row + 1);
    copy_async_wait<1>();
    block_barrier();
    if (thread() == 0) {
      float sum = 0;
      for (int i = 0; i < width; ++i) sum += stages[row % 2 * width + i];
      y[row] = sum;
    }
    block_barrier();
  }
}

LSTM_KERNEL barriers_kernel(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    block_barrier();  // not needed for correctness: only its time counts
  }
}

}  // namespace

void block_sum(const float* x, float* sum, int blocks, int threads, Options options) {
  emulator::launch({blocks, threads, 1, threads * sizeof(float), options}, block_sum_kernel, x,
                   sum);
}

void warp_sum(const float* x, float* sum, int threads, Options options) {
  emulator::launch({1, threads, 1, 0, options}, warp_sum_kernel, x, sum);
}

void warp_reverse(const float* x, float* y, int threads, Options options) {
  emulator::launch({1, threads, 1, threads * sizeof(float), options}, warp_reverse_kernel, x, y);
}

void mma_half(const uint16_t* a, const uint16_t* b, float* d, int K, Options options) {
  emulator::launch({1, 32, 1, 0, options}, mma_kernel<__half>, a, b, d, K);
}

void mma_bfloat16(const uint16_t* a, const uint16_t* b, float* d, int K, Options options) {
  emulator::launch({1, 32, 1, 0, options}, mma_kernel<__nv_bfloat16>, a, b, d, K);
}

void mma_tf32(const float* a, const float* b, float* d, int K, Options options) {
  emulator::launch({1, 32, 1, 0, options}, mma_tf32_kernel, a, b, d, K);
}

void hand_over(const float* x, float* place, float* y, uint32_t* flags, int items, int threads,
               Options options) {
  emulator::launch({2, threads, 1, 0, options}, hand_over_kernel, x, place, y, flags, items);
}

void ring(float* x, uint32_t* counter, int blocks, int threads, int rounds, Options options) {
  emulator::launch({blocks, threads, 1, 0, options}, ring_kernel, x, counter, rounds);
}

void cluster_sum(const float* x, float* y, int cluster, int threads, int rounds, Options options) {
  const size_t shared = 2 * cluster * threads * sizeof(float);
  emulator::launch({cluster, threads, cluster, shared, options}, cluster_sum_kernel, x, y, rounds);
}

void stream(const float* x, float* y, int rows, int threads, Options options) {
  const size_t shared = 2 * 4 * threads * sizeof(float);
  emulator::launch({1, threads, 1, shared, options}, stream_kernel, x, y, rows);
}

void barriers(int blocks, int threads, int rounds, Options options) {
  emulator::launch({blocks, threads, 1, 0, options}, barriers_kernel, rounds);
}

}  // namespace stateful_lstm::toys
