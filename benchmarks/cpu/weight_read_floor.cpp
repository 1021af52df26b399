// The products of a step of one row, and nothing else: the floor of such a step. For weight_read_floor.py.
//
// Weights are read once, where they lie, by the threads that steps have, and each vector of them is multiplied and
// added once; 16-bit numbers go as half as many floats. In the quickest order found: four gates side by side, and in
// every other call backwards, since what was read last is still in the cache.
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif
using Vec __attribute__((vector_size(kBytes), aligned(4), may_alias)) = float;
using Sum __attribute__((vector_size(kBytes))) = float;
constexpr int64_t kLanes = kBytes / sizeof(float), kUnits = 16, kGates = 4;

struct Matrix {
  const float* data;  // (4 * hidden, row)
  int64_t row;
};
struct Step {
  std::vector<Matrix> matrices;
  int64_t hidden;
  std::vector<float> x;
  bool backwards = false;
  volatile float kept[64] = {};  // of each thread, or else nothing would be computed
};

// The rows of units [begin, end) of one matrix, the four gates side by side.
void multiply(const Matrix& m, int64_t hidden, int64_t begin, int64_t end, const float* x,
              Sum (&sum)[kGates]) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const float* first = m.data + unit * m.row;
    const auto add = [&](int64_t k) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < kGates; ++j)
        sum[j] += *reinterpret_cast<const Vec*>(first + j * hidden * m.row + k) *
                  *reinterpret_cast<const Vec*>(x + k);
    };
    int64_t k = 0;
    for (; k + kLanes <= m.row; k += kLanes) add(k);
    if (k == m.row) continue;
    if (m.row > kLanes)
      add(m.row - kLanes);  // some numbers twice, which matters to nobody
    else
      for (; k < m.row; ++k)
        for (int64_t j = 0; j < kGates; ++j) sum[j][0] += first[j * hidden * m.row + k] * x[k];
  }
}

float share(const Step& s, int64_t begin, int64_t end) {
  Sum sum[kGates] = {};
  const int64_t blocks = (end - begin + kUnits - 1) / kUnits;
  for (int64_t n = 0; n < blocks; ++n) {
    const int64_t from = begin + (s.backwards ? blocks - 1 - n : n) * kUnits;
    const int64_t to = from + kUnits < end ? from + kUnits : end;
    for (const Matrix& m : s.matrices) multiply(m, s.hidden, from, to, s.x.data(), sum);
  }
  float all = 0;
  for (const Sum& each : sum)
    for (int64_t lane = 0; lane < kLanes; ++lane) all += each[lane];
  return all;
}

}  // namespace

// Of `count` matrices, which the caller keeps, with rows of so many floats.
extern "C" Step* make_step(const float* const* data, const int64_t* rows, int64_t count,
                           int64_t hidden) {
  auto* step = new Step;
  step->hidden = hidden;
  for (int64_t n = 0; n < count; ++n) {
    step->matrices.push_back({data[n], rows[n]});
    if (rows[n] > int64_t(step->x.size())) step->x.resize(rows[n], 0.5f);
  }
  return step;
}
extern "C" void run_step(Step* step, int64_t threads) {
  step->backwards = !step->backwards;
  torch::stable::parallel_for(0, threads, 1, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      step->kept[t % 64] =
          share(*step, step->hidden * t / threads, step->hidden * (t + 1) / threads);
  });
}
extern "C" void free_step(Step* step) { delete step; }
