// The kernels of benchmarks/gpu/microbench_kernels.h for Python, each in one call, and their expected results. That
// header documents the arrays.
#include "arrays.h"

#include "../../benchmarks/gpu/microbench_kernels.h"

namespace stateful_lstm::microbench::calls {
namespace {

constexpr size_t kWord = sizeof(uint32_t);

const Four* vectors_at(const uint32_t* words) { return reinterpret_cast<const Four*>(words); }

void fill(uint32_t* words, uint32_t count, int blocks, int threads, Options options) {
  emulator::launch({blocks, threads, 1, 0, options}, fill_kernel, words, count);
}

void launch(uint32_t* out, uint32_t number, Options options) {
  emulator::launch({1, 32, 1, 0, options}, launch_kernel, out, number);
}

void block_barrier(uint32_t* out, bool exchange, int blocks, int threads, int steps,
                   Options options) {
  const auto kernel = exchange ? block_barrier_kernel<true> : block_barrier_kernel<false>;
  emulator::launch({blocks, threads, 1, 2 * threads * kWord, options}, kernel, out, steps);
}

void grid_barrier(uint32_t* counts, uint32_t* places, uint32_t* out, bool exchange, int blocks,
                  int threads, int steps, int apart, Options options) {
  const auto kernel = exchange ? grid_barrier_kernel<true> : grid_barrier_kernel<false>;
  emulator::launch({blocks, threads, 1, 0, options}, kernel, counts, places, out, steps, apart);
}

void ping_pong(uint32_t* flags, uint32_t* out, int rounds, int other, Options options) {
  emulator::launch({other + 1, 32, 1, 0, options}, ping_pong_kernel, flags, out, rounds, other);
}

void cluster_barrier(uint32_t* out, int cluster, int threads, int steps, Options options) {
  emulator::launch({2 * cluster, threads, cluster, threads * kWord, options},
                   cluster_barrier_kernel, out, steps);
}

// bytes: of a store, 4 or 16
void cluster_write(uint32_t* out, int bytes, int threads, int words, int steps, Options options) {
  const auto kernel = bytes == 16 ? cluster_write_kernel<Four> : cluster_write_kernel<uint32_t>;
  emulator::launch(
      {2 * kCluster, threads, kCluster, kCluster * words * kWord + sizeof(Four), options}, kernel,
      out, words, steps);
}

void cluster_read(uint32_t* out, int cluster, int threads, int words, int steps, Options options) {
  emulator::launch({cluster, threads, cluster, words * kWord, options}, cluster_read_kernel, out,
                   words, steps);
}

// vectors, in_block: of 16 bytes, of `data` and for each block
void read(const uint32_t* data, uint32_t vectors, uint32_t in_block, uint32_t apart, int rounds,
          uint32_t* out, int blocks, int threads, Options options) {
  emulator::launch({blocks, threads, 1, 0, options}, read_kernel, vectors_at(data), vectors - 1,
                   in_block, apart, rounds, out);
}

void copy(const uint32_t* from, uint32_t* to, uint32_t vectors, int blocks, int threads,
          Options options) {
  emulator::launch({blocks, threads, 1, 0, options}, copy_kernel, vectors_at(from),
                   reinterpret_cast<Four*>(to), vectors);
}

void make_chain(uint32_t* chain, uint32_t lines, Options options) {
  emulator::launch({2, 32, 1, 0, options}, make_chain_kernel, chain, lines);
}

void chase(const uint32_t* chain, uint32_t start, int steps, uint32_t* out, Options options) {
  emulator::launch({1, 32, 1, 0, options}, chase_kernel, chain, start, steps, out);
}

// 64 threads a block
void shared_read(uint32_t* out, int blocks, int pieces, int rounds, Options options) {
  const size_t bytes = pieces * kPieceLoads * 64 * sizeof(Four);
  emulator::launch({blocks, 64, 1, bytes, options}, shared_read_kernel<64>, out, pieces, rounds);
}

// chains: 1 or 8
void mma(uint32_t* out, bool tf32, int chains, int threads, int rounds, Options options) {
  const auto bfloat16 = chains == 1 ? mma_kernel<__nv_bfloat16, 1> : mma_kernel<__nv_bfloat16, 8>;
  const auto of_tf32 = chains == 1 ? mma_kernel<Tf32, 1> : mma_kernel<Tf32, 8>;
  emulator::launch({2, threads, 1, 0, options}, tf32 ? of_tf32 : bfloat16, out, rounds);
}

void fma(uint32_t* out, int threads, int rounds, Options options) {
  emulator::launch({2, threads, 1, 0, options}, fma_kernel, out, 1.f, rounds);
}

}  // namespace
}  // namespace stateful_lstm::microbench::calls

PYBIND11_MODULE(microbench, module) {
  using namespace stateful_lstm::microbench;
  add(module, "fill", calls::fill);
  add(module, "launch", calls::launch);
  add(module, "block_barrier", calls::block_barrier);
  add(module, "grid_barrier", calls::grid_barrier);
  add(module, "ping_pong", calls::ping_pong);
  add(module, "cluster_barrier", calls::cluster_barrier);
  add(module, "cluster_write", calls::cluster_write);
  add(module, "cluster_read", calls::cluster_read);
  add(module, "read", calls::read);
  add(module, "copy", calls::copy);
  add(module, "make_chain", calls::make_chain);
  add(module, "chase", calls::chase);
  add(module, "shared_read", calls::shared_read);
  add(module, "mma", calls::mma);
  add(module, "fma", calls::fma);

  module.def("expected_sum", expected_sum);
  module.def("expected_round", expected_round);
  module.def("expected_ping_pong", expected_ping_pong);
  module.def("expected_cluster_write", expected_cluster_write);
  module.def("expected_cluster_read", expected_cluster_read);
  module.def("expected_chase", expected_chase);
  module.def("expected_shared_read", expected_shared_read);
  module.def("expected_mma", expected_mma);
  module.def("expected_fma", expected_fma);
}
