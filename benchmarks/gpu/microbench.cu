// Times the kernels of microbench_kernels.h on the GPU, and prints one JSON object. microbench.py compiles and runs
// it; it also runs alone: microbench [--quick]. --quick takes few steps and little memory, to try it here or in the
// emulator.
//
// Each time is the median of several runs between two events of the stream, after two warm-up runs, and long enough
// that a launch is negligible. Results of kernels are checked: if one is wrong, or CUDA reports an error, nothing is
// printed and the exit status is 1.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/launch.h"
#include "microbench_kernels.h"

namespace stateful_lstm::microbench {

// The SM's own clock, to compare with the events'. out: low and high half of the cycles, and a word that keeps it busy.
LSTM_KERNEL clock_kernel(uint32_t* out, int steps) {
  const long long begin = clock64();
  uint32_t value = 1;
  for (int step = 0; step < steps; ++step) value = value * kFactor + 1;
  out[2] = value;
  const long long cycles = clock64() - begin;
  out[0] = uint32_t(cycles);
  out[1] = uint32_t(cycles >> 32);
}

namespace {

using Words = std::vector<uint32_t>;

void ok(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(code));
}

void expect(bool right, const std::string& name, size_t at, uint32_t got, uint32_t wanted) {
  if (!right)
    throw std::runtime_error("wrong result of " + name + ": word " + std::to_string(at) + " is " +
                             std::to_string(got) + ", expected " + std::to_string(wanted));
}
template <class Wanted>
void expect_each(const std::string& name, const Words& got, Wanted wanted) {
  for (size_t i = 0; i < got.size(); ++i)
    expect(got[i] == wanted(int(i)), name, i, got[i], wanted(int(i)));
}
// Of each block's threads.
Words sums(const Words& words, int threads) {
  Words sum(words.size() / threads);
  for (size_t i = 0; i < words.size(); ++i) sum[i / threads] += words[i];
  return sum;
}

// Memory of the device.
class Memory {
 public:
  explicit Memory(size_t words) : words_(words) {
    ok(cudaMalloc(reinterpret_cast<void**>(&data_), words * sizeof(uint32_t)), "cudaMalloc");
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint32_t* data() const { return data_; }
  Four* vectors() const { return reinterpret_cast<Four*>(data_); }
  size_t words() const { return words_; }
  size_t bytes() const { return words_ * sizeof(uint32_t); }
  void clear(const Stream& stream) const { cuda::clear(data_, bytes(), stream); }
  Words read() const {
    Words words(words_);
    ok(cudaMemcpy(words.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return words;
  }

 private:
  size_t words_;
  uint32_t* data_ = nullptr;
};

// "name": value, in the order of addition.
class Object {
 public:
  void add(const std::string& name, double number) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.10g", number);
    fields_.emplace_back(name, text);
  }
  void add(const std::string& name, const std::string& text) {
    fields_.emplace_back(name, '"' + text + '"');  // neither quotes nor backslashes in ours
  }
  void add(const std::string& name, const Object& object) {
    fields_.emplace_back(name, object.text());
  }
  std::string text() const {
    std::string all;
    for (const auto& [name, value] : fields_)
      all += (all.empty() ? "\"" : ",\n\"") + name + "\": " + value;
    return "{" + all + "}";
  }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

int attribute(cudaDeviceAttr which) {
  int value = 0;
  ok(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
  return value;
}

// The device and the numbers measured on it.
struct Chip {
  explicit Chip(bool quick) : quick(quick) {
    ok(cudaStreamCreate(&stream), "cudaStreamCreate");
    ok(cudaEventCreate(&begin), "cudaEventCreate");
    ok(cudaEventCreate(&end), "cudaEventCreate");
    processors = attribute(cudaDevAttrMultiProcessorCount);
    arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
           attribute(cudaDevAttrComputeCapabilityMinor);
  }

  int steps(int wanted) const { return quick ? std::min(wanted, 5) : wanted; }
  size_t words(size_t wanted, size_t few) const { return quick ? few : wanted; }
  std::string capability() const {
    return std::to_string(arch / 10) + "." + std::to_string(arch % 10);
  }
  bool has(int needed, const std::string& what) {
    if (arch >= needed) return true;
    skipped.add(what, "needs compute capability " + std::to_string(needed / 10) + "." +
                          std::to_string(needed % 10) + ", and this is " + capability());
    return false;
  }

  // Microseconds of run(), which does all its work on the stream; prepare() before each run is not counted.
  template <class Prepare, class Run>
  double microseconds(Prepare prepare, Run run) {
    const int warm = quick ? 1 : 2, runs = quick ? 1 : 7;
    std::vector<double> times;
    for (int i = 0; i < warm + runs; ++i) {
      prepare();
      ok(cudaEventRecord(begin, stream), "cudaEventRecord");
      run();
      ok(cudaEventRecord(end, stream), "cudaEventRecord");
      ok(cudaEventSynchronize(end), "a kernel");
      float milliseconds = 0;
      ok(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
      if (i >= warm) times.push_back(milliseconds * 1e3);
    }
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    return times[runs / 2];
  }
  // Microseconds of a launch that writes `out`, which is zero before.
  template <class Run>
  double microseconds_to(const Memory& out, Run run) {
    return microseconds([&] { out.clear(stream); }, run);
  }

  const bool quick;
  cudaStream_t stream{};
  cudaEvent_t begin{}, end{};
  int processors, arch;
  Object numbers, skipped;
};

// ---- launches ------------------------------------------------------------------------------------

void launch_some(const Chip& chip, const Memory& out) {
  for (uint32_t i = 0; i < out.words(); ++i)
    launch(launch_kernel, {1, 32, 0}, chip.stream, out.data(), i);
}

void launches(Chip& chip) {
  const auto number = [](int i) { return uint32_t(i + 1); };
  Memory many(chip.words(2048, 16));
  const double us = chip.microseconds_to(many, [&] { launch_some(chip, many); });
  expect_each("launch", many.read(), number);
  chip.numbers.add("launch_us", us / many.words());

  constexpr int kGraph = 64;
  Memory out(kGraph);
  out.clear(chip.stream);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ok(cudaStreamBeginCapture(chip.stream, cudaStreamCaptureModeThreadLocal), "capture");
  launch_some(chip, out);
  ok(cudaStreamEndCapture(chip.stream, &graph), "cudaStreamEndCapture");
  ok(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  const int graphs = chip.steps(32);
  const double graph_us =
      chip.microseconds([] {},
                        [&] {
                          for (int i = 0; i < graphs; ++i)
                            ok(cudaGraphLaunch(executable, chip.stream), "cudaGraphLaunch");
                        });
  expect_each("launches in a graph", out.read(), number);
  chip.numbers.add("launch_in_graph_us", graph_us / (graphs * kGraph));
  ok(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
  ok(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

// ---- barriers ------------------------------------------------------------------------------------

void block_barriers(Chip& chip, int threads, bool exchange) {
  const int steps = chip.steps(100000);
  const std::string name = std::string(exchange ? "block_exchange_" : "block_barrier_") +
                           std::to_string(threads) + "_threads_us";
  const auto kernel = exchange ? block_barrier_kernel<true> : block_barrier_kernel<false>;
  Memory out(threads);
  const double us = chip.microseconds_to(out, [&] {
    launch(kernel, {1, threads, int64_t(2 * out.bytes())}, chip.stream, out.data(), steps);
  });
  expect_each(name, out.read(),
              [&](int i) { return expected_round(i, threads, exchange ? steps : 0, steps); });
  chip.numbers.add(name, us / steps);
}

void all_block_barriers(Chip& chip) {
  for (bool exchange : {false, true})
    for (int threads : {128, 256, 512}) block_barriers(chip, threads, exchange);
}

// apart: words from one block's count to the next
void grid_barriers(Chip& chip, int blocks, bool exchange, int apart) {
  constexpr int kThreads = 256;
  const int steps = chip.steps(2000);
  const std::string name = std::string(exchange ? "grid_exchange_" : "grid_barrier_") +
                           std::to_string(blocks) + "_blocks" +
                           (apart > 1 ? "_counts_apart_us" : "_us");
  const auto kernel = exchange ? grid_barrier_kernel<true> : grid_barrier_kernel<false>;
  Grid grid = {blocks, kThreads, 0};
  grid.cooperative = true;
  Memory counts(size_t(blocks) * apart), places(size_t(2) * blocks * kThreads),
      out(size_t(blocks) * kThreads);
  const double us = chip.microseconds(
      [&] {
        counts.clear(chip.stream);
        out.clear(chip.stream);
      },
      [&] {
        launch(kernel, grid, chip.stream, counts.data(), places.data(), out.data(), steps, apart);
      });
  expect_each(name, out.read(), [&](int i) {
    return expected_round(i / kThreads, blocks, exchange ? steps : 1, steps);
  });
  chip.numbers.add(name, us / steps);
}

void all_grid_barriers(Chip& chip) {
  std::vector<int> sizes = {16, 32, 64, 96, 128, chip.processors};
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  for (int blocks : sizes) {
    if (blocks > chip.processors) {
      chip.skipped.add("grid_barrier_" + std::to_string(blocks) + "_blocks",
                       "there are " + std::to_string(chip.processors) + " SMs");
      continue;
    }
    grid_barriers(chip, blocks, false, 1);
    grid_barriers(chip, blocks, true, 1);
  }
  grid_barriers(chip, chip.processors, false, 32);
}

// How far apart two blocks are differs: the median and the worst of some.
void flags(Chip& chip) {
  constexpr int kOthers = 8;
  const int rounds = chip.steps(2000);
  std::vector<double> found;
  Memory words(kFlagsApart + 1), out(2);
  for (int i = 1; i <= kOthers; ++i) {
    const int other = std::max(1, (chip.processors - 1) * i / kOthers);
    Grid grid = {other + 1, 32, 0};
    grid.cooperative = true;
    const double us = chip.microseconds(
        [&] {
          words.clear(chip.stream);
          out.clear(chip.stream);
        },
        [&] {
          launch(ping_pong_kernel, grid, chip.stream, words.data(), out.data(), rounds, other);
        });
    expect_each("ping_pong", out.read(), [&](int k) { return expected_ping_pong(k, rounds); });
    found.push_back(us / (2 * rounds));
  }
  std::sort(found.begin(), found.end());
  chip.numbers.add("flag_one_way_us", found[kOthers / 2]);
  chip.numbers.add("flag_one_way_worst_us", found.back());
}

// ---- clusters ------------------------------------------------------------------------------------

void cluster_barriers(Chip& chip, int cluster) {
  constexpr int kThreads = 256;
  const int steps = chip.steps(20000);
  const std::string name = "cluster_barrier_" + std::to_string(cluster) + "_blocks_us";
  Grid grid = {cluster, kThreads, kThreads * sizeof(uint32_t)};
  grid.cluster = cluster;
  Memory out(size_t(cluster) * kThreads);
  const double us = chip.microseconds_to(
      out, [&] { launch(cluster_barrier_kernel, grid, chip.stream, out.data(), steps); });
  expect_each(name, out.read(),
              [&](int i) { return expected_round(i / kThreads, cluster, 1, steps); });
  chip.numbers.add(name, us / steps);
}

constexpr int kWriters = 256;  // threads of a block
int written_words(const Chip& chip) {
  return chip.quick ? 4 * kWriters : 2048;
}  // to each other block
Grid writers(const Chip& chip, int clusters) {
  Grid grid = {kCluster * clusters, kWriters,
               int64_t(kCluster) * written_words(chip) * int64_t(sizeof(uint32_t))};
  grid.cluster = kCluster;
  return grid;
}

template <class Word>
double cluster_write_us(Chip& chip, int clusters, int words) {
  const int steps = chip.steps(2000);
  const Grid grid = writers(chip, clusters);
  Memory out(size_t(grid.blocks) * kWriters);
  const double us = chip.microseconds_to(out, [&] {
    launch(cluster_write_kernel<Word>, grid, chip.stream, out.data(), words, steps);
  });
  uint32_t wanted[kCluster];
  for (int rank = 0; rank < kCluster; ++rank)
    wanted[rank] = expected_cluster_write(rank, words, steps);
  expect_each("cluster_write", sums(out.read(), kWriters),
              [&](int block) { return wanted[block % kCluster]; });
  return us / steps;
}

// Net of the barrier: what the words add to a step without any.
template <class Word>
void cluster_writes(Chip& chip, int clusters, const std::string& which) {
  const double none = cluster_write_us<Word>(chip, clusters, 0);
  const double all = cluster_write_us<Word>(chip, clusters, written_words(chip));
  const double bytes = double(kCluster - 1) * written_words(chip) * sizeof(uint32_t);
  const std::string name = "cluster_write_" + std::to_string(sizeof(Word)) + "_bytes_" + which;
  chip.numbers.add(name + "_step_us", all);
  // Where a step with words is no longer than one without, as in a trial, there is no rate.
  chip.numbers.add(name + "_GB_per_s_per_SM", all > none ? bytes / (all - none) * 1e-3 : 0);
}

// Clusters of writers that the device holds at once. After one was launched, which allows their shared memory.
int clusters_at_once(const Chip& chip) {
  const Grid grid = writers(chip, 1);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kCluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kCluster);
  config.blockDim = dim3(kWriters);
  config.dynamicSmemBytes = size_t(grid.shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int found = 0;
  ok(cudaOccupancyMaxActiveClusters(&found, cluster_write_kernel<Four>, &config),
     "cudaOccupancyMaxActiveClusters");
  // One block on each SM, though shared memory may have room for more.
  return std::max(1, std::min(found, chip.processors / kCluster));
}

void cluster_reads(Chip& chip) {
  const int steps = chip.steps(20000), words = 4096;
  Grid grid = {kCluster, 32, int64_t(words * sizeof(uint32_t))};
  grid.cluster = kCluster;
  Memory out(kCluster);
  const double us = chip.microseconds_to(
      out, [&] { launch(cluster_read_kernel, grid, chip.stream, out.data(), words, steps); });
  expect_each("cluster_read", out.read(),
              [&](int rank) { return expected_cluster_read(rank, words, steps); });
  chip.numbers.add("cluster_read_latency_ns", us / steps * 1e3);
}

void clusters(Chip& chip) {
  if (!chip.has(90, "clusters")) return;
  for (int cluster : {2, 4, 8}) cluster_barriers(chip, cluster);
  cluster_writes<uint32_t>(chip, 1, "alone");
  cluster_writes<Four>(chip, 1, "alone");
  const int many = clusters_at_once(chip);
  chip.numbers.add("clusters_of_8_at_once", many);
  cluster_writes<uint32_t>(chip, many, "all");
  cluster_writes<Four>(chip, many, "all");
  cluster_reads(chip);
}

// ---- memory --------------------------------------------------------------------------------------

constexpr int kReaders = 512;  // threads of a block

void fill(const Chip& chip, const Memory& memory) {
  launch(fill_kernel, {2 * chip.processors, 256, 0}, chip.stream, memory.data(),
         uint32_t(memory.words()));
}

void l2_reads(Chip& chip, const Memory& data, int blocks, const std::string& name) {
  const int rounds = chip.steps(16);
  const auto vectors = uint32_t(data.words() / 4);
  Memory out(size_t(blocks) * kReaders);
  const double us = chip.microseconds_to(out, [&] {
    launch(read_kernel, {blocks, kReaders, 0}, chip.stream, data.vectors(), vectors - 1, vectors,
           vectors / blocks / 32 * 32, rounds, out.data());
  });
  expect_each(name, sums(out.read(), kReaders),
              [&](int) { return rounds * expected_sum(0, data.words()); });
  chip.numbers.add(name, double(data.bytes()) * rounds * blocks / us * 1e-3);
}

// Loads one after the other. Of memory: with `other`, which takes the place in the L2 cache of what was written there,
// and on from where the last run ended.
void latency(Chip& chip, const Memory& chain, int wanted, const Memory* other,
             const std::string& name) {
  const auto lines = uint32_t(chain.words() / kLine);
  const int steps = chip.steps(wanted);
  uint32_t start = 0;
  Memory out(1);
  launch(make_chain_kernel, {2 * chip.processors, 256, 0}, chip.stream, chain.data(), lines);
  if (other != nullptr) other->clear(chip.stream);
  const double us = chip.microseconds(
      [&] {
        if (other != nullptr) start = expected_chase(lines, start, steps);
        out.clear(chip.stream);
      },
      [&] {
        launch(chase_kernel, {1, 32, 0}, chip.stream, chain.data(), start, steps, out.data());
      });
  expect_each(name, out.read(), [&](int) { return expected_chase(lines, start, steps); });
  chip.numbers.add(name, us / steps * 1e3);
}

void l2(Chip& chip) {
  Memory data(chip.words(size_t(8) << 18, size_t(32) << 10));  // 8 MiB
  fill(chip, data);
  l2_reads(chip, data, 2 * chip.processors, "l2_read_GB_per_s");
  l2_reads(chip, data, 1, "l2_read_one_SM_GB_per_s");
  latency(chip, data, 50000, nullptr, "l2_latency_ns");
}

// Each block a part of it, once: both powers of two.
uint32_t sum_of_memory(const Chip& chip, const Memory& memory) {
  const auto vectors = uint32_t(memory.words() / 4);
  const uint32_t blocks = std::min(1024u, vectors / (kFlight * kReaders));
  Memory out(size_t(blocks) * kReaders);
  launch(read_kernel, {blocks, kReaders, 0}, chip.stream, memory.vectors(), vectors - 1,
         vectors / blocks, vectors / blocks, 1, out.data());
  ok(cudaStreamSynchronize(chip.stream), "summing memory");
  return sums(out.read(), int(out.words()))[0];
}

void memory_copy(Chip& chip) {
  Memory from(chip.words(size_t(1) << 28, size_t(64) << 10)), to(from.words());  // 1 GiB
  fill(chip, from);
  to.clear(chip.stream);
  const double us =
      chip.microseconds([] {},
                        [&] {
                          launch(copy_kernel, {2 * chip.processors, kReaders, 0}, chip.stream,
                                 from.vectors(), to.vectors(), uint32_t(from.words() / 4));
                        });
  const uint32_t got = sum_of_memory(chip, to), wanted = expected_sum(0, to.words());
  expect(got == wanted, "memory_copy", 0, got, wanted);
  chip.numbers.add("memory_copy_GB_per_s", 2.0 * double(from.bytes()) / us * 1e-3);
}

void memory(Chip& chip) {
  memory_copy(chip);
  Memory chain(chip.words(size_t(1) << 27, size_t(16) << 10)), other(chain.words());  // 512 MiB
  latency(chip, chain, 20000, &other, "memory_latency_ns");
}

void shared_reads(Chip& chip) {
  const int rounds = chip.steps(20000);
  const int pieces = 3;  // of 32 KiB
  const auto bytes = int64_t(pieces) * kPieceLoads * kReaders * int64_t(sizeof(Four));
  if (bytes > attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
    chip.skipped.add("shared_read", "a block can have less than 96 KiB of shared memory");
    return;
  }
  Memory out(size_t(chip.processors) * kReaders);
  const double us = chip.microseconds_to(out, [&] {
    launch(shared_read_kernel<kReaders>, {chip.processors, kReaders, bytes}, chip.stream,
           out.data(), pieces, rounds);
  });
  const uint32_t wanted = expected_shared_read(kReaders, pieces, rounds);
  expect_each("shared_read", sums(out.read(), kReaders), [&](int) { return wanted; });
  chip.numbers.add("shared_read_GB_per_s_per_SM", double(bytes) / pieces * rounds / us * 1e-3);
}

// ---- arithmetic ----------------------------------------------------------------------------------

double clock_us(Chip& chip, double* cycles) {
  const int steps = chip.steps(20000000);
  Memory out(3);
  const double us = chip.microseconds_to(
      out, [&] { launch(clock_kernel, {1, 1, 0}, chip.stream, out.data(), steps); });
  const Words got = out.read();
  uint32_t wanted = 1;
  for (int step = 0; step < steps; ++step) wanted = wanted * kFactor + 1;
  expect(got[2] == wanted, "clock", 2, got[2], wanted);
  *cycles = double(uint64_t(got[1]) << 32 | got[0]);
  return us;
}

// Microseconds a round. each: numbers in a register of a fragment
template <class Number, int kChains>
double mma_us(Chip& chip, int blocks, int warps, int each, int rounds) {
  rounds = chip.steps(rounds);
  Memory out(size_t(blocks) * 32 * warps);
  const double us = chip.microseconds_to(out, [&] {
    launch(mma_kernel<Number, kChains>, {blocks, 32 * warps, 0}, chip.stream, out.data(), rounds);
  });
  Words wanted(32);
  for (int lane = 0; lane < 32; ++lane) wanted[lane] = expected_mma(lane, each, kChains, rounds);
  expect_each("mma", out.read(), [&](int i) { return wanted[i % 32]; });
  return us / rounds;
}

template <class Number>
void mma_rate(Chip& chip, int warps, int each, const std::string& type) {
  const double us = mma_us<Number, 8>(chip, chip.processors, warps, each, 40000);
  const double flops = 2.0 * 16 * 8 * (8 * each) * 8 * warps * chip.processors;  // of a round
  const std::string name = "mma_" + type + "_" + std::to_string(warps) + "_warps_TFLOP_per_s";
  chip.numbers.add(name, flops / us * 1e-6);
}

void fma_rate(Chip& chip) {
  const int rounds = chip.steps(100000);
  Memory out(size_t(chip.processors) * kReaders);
  const double us = chip.microseconds_to(out, [&] {
    launch(fma_kernel, {chip.processors, kReaders, 0}, chip.stream, out.data(), 1.f, rounds);
  });
  expect_each("fma", out.read(), [&](int) { return expected_fma(rounds); });
  const double flops = 2.0 * kFmaChains * rounds * double(out.words());
  chip.numbers.add("fma_float32_TFLOP_per_s", flops / us * 1e-6);
}

void arithmetic(Chip& chip) {
  double cycles = 0;
  const double us = clock_us(chip, &cycles), clock = cycles / us;
  chip.numbers.add("sm_clock_MHz", clock);
  fma_rate(chip);
  if (!chip.has(80, "mma")) return;
  for (int warps : {4, 8, 16}) mma_rate<__nv_bfloat16>(chip, warps, 2, "bfloat16");
  for (int warps : {4, 8, 16}) mma_rate<Tf32>(chip, warps, 1, "tf32");
  const double latency = mma_us<__nv_bfloat16, 1>(chip, 1, 1, 2, 100000);
  chip.numbers.add("mma_bfloat16_latency_ns", latency * 1e3);
  chip.numbers.add("mma_bfloat16_latency_cycles", latency * clock);
}

// ---- all of it -----------------------------------------------------------------------------------

// Clocks rise under load, so some tenths of a second of work come first.
void warm_up(Chip& chip) {
  if (chip.quick) return;
  Memory out(size_t(chip.processors) * kReaders);
  for (int i = 0; i < 100; ++i)
    launch(fma_kernel, {chip.processors, kReaders, 0}, chip.stream, out.data(), 1.f, 100000);
  ok(cudaStreamSynchronize(chip.stream), "warming up");
}

Object about(const Chip& chip) {
  cudaDeviceProp properties;
  ok(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  int driver = 0, runtime = 0;
  ok(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  ok(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  Object object;
  object.add("device", std::string(properties.name));
  object.add("capability", chip.capability());
  object.add("SMs", chip.processors);
  object.add("clock_kHz", attribute(cudaDevAttrClockRate));
  object.add("memory_clock_kHz", attribute(cudaDevAttrMemoryClockRate));
  object.add("memory_bus_bits", attribute(cudaDevAttrGlobalMemoryBusWidth));
  object.add("l2_bytes", attribute(cudaDevAttrL2CacheSize));
  object.add("shared_bytes_per_block", attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  object.add("driver_version", driver);
  object.add("runtime_version", runtime);
  return object;
}

std::string measured(bool quick) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0)
    throw std::runtime_error(
        std::string("no GPU that CUDA can use here") +
        (code == cudaSuccess ? std::string() : std::string(": ") + cudaGetErrorString(code)));
  Chip chip(quick);
  Object all = about(chip);
  warm_up(chip);
  const std::pair<const char*, void (*)(Chip&)> parts[] = {
      {"launches", launches},
      {"block barriers", all_block_barriers},
      {"grid barriers", all_grid_barriers},
      {"flags", flags},
      {"clusters", clusters},
      {"L2", l2},
      {"shared memory", shared_reads},
      {"memory", memory},
      {"arithmetic", arithmetic},
  };
  for (const auto& [name, part] : parts) {
    try {
      part(chip);
    } catch (const std::exception& error) {
      throw std::runtime_error(std::string(name) + ": " + error.what());
    }
  }
  all.add("numbers", chip.numbers);
  all.add("skipped", chip.skipped);
  return all.text();
}

}  // namespace
}  // namespace stateful_lstm::microbench

int main(int count, char** arguments) {
  const bool quick = count == 2 && std::strcmp(arguments[1], "--quick") == 0;
  if (count > 1 && !quick) {
    std::fprintf(stderr, "usage: microbench [--quick]\n");
    return 2;
  }
  try {
    std::printf("%s\n", stateful_lstm::microbench::measured(quick).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "microbench: %s\n", error.what());
    return 1;
  }
  return 0;
}
