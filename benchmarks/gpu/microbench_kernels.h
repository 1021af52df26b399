// Kernels that each measure one limit of a chip that bounds the kernels of csrc/cuda/. microbench.cu times them.
//
// They use the names of device.h only, so the emulator runs them too (tests/cuda/test_microbench.py). Each writes words
// that an expected_...() predicts, so that a loop emptied by the compiler or by a mistake is detected. The words are
// sums modulo 2^32, which do not depend on an order.
#pragma once
#include <cstdint>

#include "cuda/device.h"

namespace stateful_lstm::microbench {

using namespace cuda;

// The largest load or store.
struct alignas(16) Four {
  uint32_t x, y, z, w;
};
LSTM_DEVICE uint32_t sum_of(const Four& v) { return (v.x + v.y) + (v.z + v.w); }

// Memory is filled with i * kFactor in word i: all differ.
constexpr uint32_t kFactor = 2654435761u;

LSTM_KERNEL fill_kernel(uint32_t* words, uint32_t count) {
  for (uint32_t i = block() * threads() + thread(); i < count; i += blocks() * threads())
    words[i] = i * kFactor;
}
inline uint32_t expected_sum(uint64_t first, uint64_t count) {
  return count == 0 ? 0 : uint32_t(count * (2 * first + count - 1) / 2) * kFactor;
}

// Words that rotate: in each of `steps` steps a word moves to the next place, or stays, and grows by the step's number.
// This is the word that began as `at`, the place's number, after so many moves.
inline uint32_t expected_round(int at, int places, int moves, uint32_t steps) {
  return uint32_t((int64_t(at) + moves) % places) + uint32_t(uint64_t(steps) * (steps + 1) / 2);
}

// ---- launches ------------------------------------------------------------------------------------

// A launch: out[number] = number + 1, a store, since nothing waits for it.
LSTM_KERNEL launch_kernel(uint32_t* out, uint32_t number) {
  if (thread() == 0) out[number] = number + 1;
}

// ---- barriers ------------------------------------------------------------------------------------

// A barrier of the block; with `exchange`, a word to shared memory, the barrier, and the next thread's word
// from there. out: (blocks, threads); shared memory: 2 words a thread
template <bool exchange>
LSTM_KERNEL block_barrier_kernel(uint32_t* out, int steps) {
  auto* places = static_cast<uint32_t*>(shared_memory());  // (2, threads)
  const int next = (thread() + 1) % threads();
  uint32_t value = thread();
#pragma unroll 4
  for (int step = 0; step < steps; ++step) {
    if (exchange) places[step % 2 * threads() + thread()] = value;
    block_barrier();
    if (exchange) value = places[step % 2 * threads() + next];
    value += step + 1;
  }
  out[block() * threads() + thread()] = value;
}

// A step of blocks that wait for each other, as in csrc/cuda/persistent/grid_simt.h: all threads write a word, thread
// 0 counts with a release, and all blocks acquire the counts of all, a lane for each. With `exchange` each thread
// then reads the next block's word; without, after the last step only.
// counts: (blocks) zeros, `apart` words from one to the next; places: (2, blocks, threads); out: (blocks, threads)
template <bool exchange>
LSTM_KERNEL grid_barrier_kernel(uint32_t* counts, uint32_t* places, uint32_t* out, int steps,
                                int apart) {
  const int own = block() * threads() + thread();
  const int next = (block() + 1) % blocks() * threads() + thread();
  uint32_t value = block();
  for (int step = 0; step < steps; ++step) {
    uint32_t* now = places + step % 2 * blocks() * threads();
    now[own] = value;
    block_barrier();
    if (thread() == 0) store_release(counts + block() * apart, step + 1);
    for (int i = thread(); i < blocks(); i += threads())
      while (load_acquire(counts + i * apart) < uint32_t(step + 1)) emulator_yield();
    block_barrier();
    if (exchange || step == steps - 1) value = now[next];
    value += step + 1;
  }
  out[own] = value;
}

// A flag from block 0 to block `other` and back, by one thread of each; the blocks between only occupy SMs.
// flags: kFlagsApart + 1 zeros; out: (2) the last values that the two read
constexpr int kFlagsApart = 64;
LSTM_KERNEL ping_pong_kernel(uint32_t* flags, uint32_t* out, int rounds, int other) {
  if (thread() != 0 || (block() != 0 && block() != other)) return;
  const bool first = block() == 0;
  uint32_t* mine = flags + (first ? 0 : kFlagsApart);
  const uint32_t* theirs = flags + (first ? kFlagsApart : 0);
  uint32_t seen = 0, sent = 0;
  for (int round = 0; round < rounds; ++round) {
    if (first) store_release(mine, sent = seen + 1);
    while ((seen = load_acquire(theirs)) <= sent) emulator_yield();
    if (!first) store_release(mine, sent = seen + 1);
  }
  out[first ? 0 : 1] = seen;
}
inline uint32_t expected_ping_pong(int which, int rounds) { return 2 * rounds - which; }

// ---- clusters (sm_90 and later) ------------------------------------------------------------------

LSTM_DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// A barrier of the cluster. After the last, each thread reads the next block's word.
// out: (blocks, threads); shared memory: a word a thread
LSTM_KERNEL cluster_barrier_kernel(uint32_t* out, int steps) {
  auto* place = static_cast<uint32_t*>(shared_memory()) + thread();
  uint32_t value = cluster_rank();
  for (int step = 0; step < steps; ++step) {
    const bool last = step == steps - 1;
    if (last) *place = value;
    cluster_barrier();
    if (last) value = *cluster_shared(place, (cluster_rank() + 1) % cluster_blocks());
    value += step + 1;
  }
  cluster_barrier();  // no block may end while others read its memory
  out[block() * threads() + thread()] = value;
}

LSTM_DEVICE void count_up(uint32_t* to, uint32_t from) { *to = from; }
LSTM_DEVICE void count_up(Four* to, uint32_t from) { *to = {from, from + 1, from + 2, from + 3}; }

// A step of blocks that write to each other's shared memory: `words` words to each of the seven others, in stores of
// a Word, then a barrier of the cluster. What it takes with words = 0 is the barrier's.
// words: a multiple of threads * sizeof(Word) / 4, or 0; out: (blocks, threads), a block's adds up to all it got last
constexpr int kCluster = 8;
template <class Word>
LSTM_KERNEL cluster_write_kernel(uint32_t* out, int words, int steps) {
  constexpr int kWords = sizeof(Word) / sizeof(uint32_t);
  auto* received = static_cast<uint32_t*>(shared_memory());  // (cluster, words), by who sent them
  const int rank = cluster_rank();
  Word* others[kCluster - 1];  // the place there for what this block sends
#pragma unroll
  for (int i = 0; i < kCluster - 1; ++i)
    others[i] =
        reinterpret_cast<Word*>(cluster_shared(received + rank * words, (rank + 1 + i) % kCluster));
  cluster_barrier();  // all blocks have begun
  for (int step = 0; step < steps; ++step) {
    for (int at = thread(); at < words / kWords; at += threads()) {
      const uint32_t value = step * kFactor + rank * words + at * kWords;
#pragma unroll
      for (int i = 0; i < kCluster - 1; ++i) count_up(others[i] + at, value);
    }
    cluster_barrier();
  }
  uint32_t sum = 0;
  for (int i = thread(); i < kCluster * words; i += threads())
    if (i / words != rank) sum += received[i];
  out[block() * threads() + thread()] = sum;
}
inline uint32_t expected_cluster_write(int rank, int words, int steps) {
  uint32_t sum = 0;
  for (int i = 0; i < kCluster * words; ++i)
    if (i / words != rank) sum += uint32_t(steps - 1) * kFactor + i;
  return sum;
}

// Dependent reads of the next block's shared memory, by one thread of each block.
// words: a power of two; out: (blocks)
constexpr int kChainStride = 33;
LSTM_KERNEL cluster_read_kernel(uint32_t* out, int words, int steps) {
  auto* chain = static_cast<uint32_t*>(shared_memory());  // (words)
  for (int i = thread(); i < words; i += threads()) chain[i] = (i + kChainStride) % words;
  cluster_barrier();
  if (thread() == 0) {
    const int rank = cluster_rank();
    const uint32_t* there = cluster_shared(chain, (rank + 1) % cluster_blocks());
    uint32_t at = rank;
    for (int step = 0; step < steps; ++step) at = there[at];
    out[block()] = at;
  }
  cluster_barrier();  // no block may end while others read its memory
}
inline uint32_t expected_cluster_read(int rank, int words, int steps) {
  return uint32_t((rank + int64_t(steps) * kChainStride) % words);
}

// ---- memory --------------------------------------------------------------------------------------

constexpr int kFlight = 8;  // loads of 16 bytes in flight for each thread

// Reads: each block `count` vectors from block * apart on, round and round; there are mask + 1 of them, a
// power of two. Each round begins elsewhere, or the compiler might reuse the round before.
// count: a multiple of kFlight * threads; out: (blocks, threads), a block's adds up to all it read
LSTM_KERNEL read_kernel(const Four* data, uint32_t mask, uint32_t count, uint32_t apart, int rounds,
                        uint32_t* out) {
  uint32_t sum = 0;
  for (int round = 0; round < rounds; ++round) {
    const uint32_t begin = block() * apart + round * 32 + thread();
    for (uint32_t i = 0; i < count; i += kFlight * threads()) {
      Four held[kFlight];
#pragma unroll
      for (int k = 0; k < kFlight; ++k) held[k] = data[(begin + i + k * threads()) & mask];
#pragma unroll
      for (int k = 0; k < kFlight; ++k) sum += sum_of(held[k]);
    }
  }
  out[block() * threads() + thread()] = sum;
}

// A copy. count: vectors, a multiple of kFlight * threads
LSTM_KERNEL copy_kernel(const Four* from, Four* to, uint32_t count) {
  const uint32_t piece = kFlight * threads();
  for (uint32_t i = block() * piece + thread(); i < count; i += blocks() * piece) {
    Four held[kFlight];
#pragma unroll
    for (int k = 0; k < kFlight; ++k) held[k] = from[i + k * threads()];
#pragma unroll
    for (int k = 0; k < kFlight; ++k) to[i + k * threads()] = held[k];
  }
}

// A path through all lines of some memory, each once, in an order that hardware cannot predict: a full-period
// congruential sequence, for a number of lines that is a power of two.
constexpr uint32_t kLine = 32;  // words
constexpr uint32_t kMultiplier = 1664525u, kIncrement = 1013904223u;
LSTM_KERNEL make_chain_kernel(uint32_t* chain, uint32_t lines) {
  for (uint32_t i = block() * threads() + thread(); i < lines; i += blocks() * threads())
    chain[i * kLine] = (i * kMultiplier + kIncrement) % lines * kLine;
}
// Dependent reads by one thread. out: (1) the last place
LSTM_KERNEL chase_kernel(const uint32_t* chain, uint32_t start, int steps, uint32_t* out) {
  if (thread() != 0) return;
  uint32_t at = start;
  for (int step = 0; step < steps; ++step) at = chain[at];
  *out = at;
}
inline uint32_t expected_chase(uint32_t lines, uint32_t start, int steps) {
  uint32_t line = start / kLine;
  for (int step = 0; step < steps; ++step) line = (line * kMultiplier + kIncrement) % lines;
  return line * kLine;
}

// Reads of shared memory, a piece of kPieceLoads vectors a thread in each round.
// out: (blocks, threads), a block's adds up to all it read; shared memory: (pieces, kPieceLoads, kThreads) vectors
constexpr int kPieceLoads = 4;
template <int kThreads>
LSTM_KERNEL shared_read_kernel(uint32_t* out, int pieces, int rounds) {
  constexpr int kPiece = kPieceLoads * kThreads;
  auto* places = static_cast<Four*>(shared_memory());
  for (int i = thread(); i < pieces * kPiece; i += kThreads) {
    const uint32_t first = uint32_t(4 * i) * kFactor;
    places[i] = {first, first + kFactor, first + 2 * kFactor, first + 3 * kFactor};
  }
  block_barrier();
  uint32_t sum = 0;
  int piece = 0;
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
    const Four* now = places + piece * kPiece + thread();
#pragma unroll
    for (int k = 0; k < kPieceLoads; ++k) sum += sum_of(now[k * kThreads]);
    piece = piece + 1 == pieces ? 0 : piece + 1;
  }
  out[block() * kThreads + thread()] = sum;
}
inline uint32_t expected_shared_read(int threads, int pieces, int rounds) {
  const uint64_t words = 4ull * kPieceLoads * threads;  // of a piece
  uint32_t sum = 0;
  for (int piece = 0; piece < pieces; ++piece)
    sum += uint32_t((rounds - piece + pieces - 1) / pieces) * expected_sum(piece * words, words);
  return sum;
}

// ---- arithmetic ----------------------------------------------------------------------------------

// Elements of the fragments are 1, -1, 2 or -2, by lane, register (4 and 5 are b's) and place in the register: sums
// stay exact, and the bits change. This is one as a bfloat16, which is also a float's upper half.
LSTM_DEVICE uint32_t element_bits(int lane, int which, int place) {
  const int code = (7 * lane * (lane + which) + 37 * which + 11 * lane * place) / 8 % 4;
  return (0x3f80u + code / 2 * 0x80u) | uint32_t(code % 2) << 15;
}
LSTM_DEVICE uint32_t fragment(int lane, int which, __nv_bfloat16) {
  return element_bits(lane, which, 0) | element_bits(lane, which, 1) << 16;
}
LSTM_DEVICE uint32_t fragment(int lane, int which, Tf32) {
  return element_bits(lane, which, 0) << 16;
}

// Products of tensor cores in kChains independent chains: one gives the latency of a product, eight the rate. Sum
// number c begins with c. Whole numbers below 2^24 in each, so rounds below 2^18.
// out: (blocks, threads) the weighted sum of all that a thread holds
template <class Number, int kChains>
LSTM_KERNEL mma_kernel(uint32_t* out, int rounds) {
  const int lane = thread() % 32;
  uint32_t a[4], b[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = fragment(lane, i, Number{});
#pragma unroll
  for (int i = 0; i < 2; ++i) b[i] = fragment(lane, 4 + i, Number{});
  float d[kChains][4];
#pragma unroll
  for (int c = 0; c < kChains; ++c)
    for (int i = 0; i < 4; ++i) d[c][i] = c;
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) mma(d[c], a, b, Number{});
  }
  uint32_t sum = 0;
#pragma unroll
  for (int c = 0; c < kChains; ++c)
    for (int i = 0; i < 4; ++i) sum += (i + 1) * uint32_t(int32_t(d[c][i]));
  out[block() * threads() + thread()] = sum;
}
inline int element(int lane, int which, int place) {
  const int code = (7 * lane * (lane + which) + 37 * which + 11 * lane * place) / 8 % 4;
  return (code / 2 + 1) * (code % 2 == 0 ? 1 : -1);
}
// each: numbers in a register, 2 of bfloat16 and 1 of TF32
inline uint32_t expected_mma(int lane, int each, int chains, int rounds) {
  uint32_t sum = 0;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    int product = 0;
    for (int k = 0; k < 8 * each; ++k) {
      const int pair = k / each % 4, half = k / each / 4;
      product += element(row % 8 * 4 + pair, row / 8 + 2 * half, k % each) *
                 element(column * 4 + pair, 4 + half, k % each);
    }
    for (int c = 0; c < chains; ++c) sum += (i + 1) * uint32_t(c + rounds * product);
  }
  return sum;
}

// Multiply-adds of floats in kFmaChains independent chains. one: 1, unknown to the compiler.
// rounds: below 2^24; out: (blocks, threads)
constexpr int kFmaChains = 8;
LSTM_KERNEL fma_kernel(uint32_t* out, float one, int rounds) {
  float d[kFmaChains];
#pragma unroll
  for (int c = 0; c < kFmaChains; ++c) d[c] = c;
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int c = 0; c < kFmaChains; ++c) d[c] = d[c] * one + one;
  }
  uint32_t sum = 0;
#pragma unroll
  for (int c = 0; c < kFmaChains; ++c) sum += uint32_t(d[c]);
  out[block() * threads() + thread()] = sum;
}
inline uint32_t expected_fma(int rounds) {
  return kFmaChains * rounds + kFmaChains * (kFmaChains - 1) / 2;
}

}  // namespace stateful_lstm::microbench
