// How the work of a layer is shared out to threads: by rows, which never wait for each other; or by hidden units, of
// which each member reads its own part of the weights, and meets the others once a step.
//
// Which is quicker is estimated from the sizes alone, in cycles of a thread that multiplies two vectors in each: where
// the weights come from, how often they meet. Measured in docs/performance.md, "Rows or units".
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "cpu/kernels.h"

namespace stateful_lstm {

struct Split {
  bool by_units;
  int64_t members;

  // Of a part; one at least, so that a call without rows can be divided by it.
  int64_t rows(int64_t B) const {
    return std::max<int64_t>(1, by_units ? B : (B + members - 1) / members);
  }
};

constexpr int64_t kThreadWork = 1 << 18;  // multiply-adds worth a thread's waking, 20 us
template <class S>
int64_t work_of(const SequenceParams<S>& p, int64_t inputs) {
  return p.B * p.T * 4 * p.H * (inputs + p.P + 16);
}

constexpr double kNear = 700 << 10;  // bytes of weights that stay in a core's own cache

// Cycles of a step, by sizes. Weights and units count in vectors, weights as they are packed.
template <class S>
class StepCost {
 public:
  StepCost(const SequenceParams<S>& p, int64_t inputs, bool packs)
      : B_(p.B), H_(p.H), T_(p.T), packs_(packs) {
    const auto& kernel = cpu::kernels<S>();
    units_ = (p.H + kernel.lanes - 1) / kernel.lanes;
    const double all = 4.0 * units_ / (kernel.paired ? 2 : 1);
    h_ = all * p.P;
    x_ = all * inputs;
    vector_bytes_ = double(kernel.lanes * sizeof(Acc<S>));
  }
  double by_rows(int64_t members) const { return step((B_ + members - 1) / members, 1); }
  double by_units(int64_t members) const {
    // Between the quick and the slow minutes of a machine. Lines that follow each other are fetched ahead.
    constexpr double kMeeting = 500, kFirst = 150, kNext = 40, kFirstLines = 64;
    const double lines = double(B_ * H_ * sizeof(Acc<S>)) / 64 * (members - 1) / members;
    const double fetching =
        lines < kFirstLines ? kFirst * lines : kFirst * kFirstLines + kNext * (lines - kFirstLines);
    return step(B_, members) + kMeeting * members + fetching;
  }
  // Whether all weights of the layer stay near one thread.
  bool near() const { return (h_ + x_) * vector_bytes_ <= kNear; }

 private:
  // Of a thread that reads one part in `share` of the weights for so many rows. What comes from further away than its
  // own cache is waited for, and half of it even where there is enough to multiply.
  double step(int64_t rows, int64_t share) const {
    constexpr double kPack = 10, kCell = 90, kFar = 8 << 20;
    const double computing = rows / 2.0, bytes = h_ * vector_bytes_ / share;
    const double reading = bytes > kFar ? 5 : 3 - 2 * std::min(1.0, kNear / bytes);
    const double waiting = std::max(reading - computing, (reading - 1) / 2);
    const double packing = packs_ ? kPack * (h_ + x_) / T_ : 0;
    const double products = h_ * (computing + waiting) + x_ * computing;
    return (products + packing + kCell * units_ * rows) / share;
  }
  int64_t B_, H_, T_, units_;
  bool packs_;
  double h_, x_, vector_bytes_;
};

// Tiles are quicker than any cache but L2 hands weights out, and rows are many before they are busy.
template <class S>
Split split_of_tiles(const SequenceParams<S>& p, bool in_passing, int64_t most) {
  constexpr int64_t kRows = 6, kColumns = 32;   // that keep a thread busy
  constexpr int64_t kStep = 1 << 11;            // a member's of a step, worth a meeting, in vectors
  constexpr int64_t kHeavy = int64_t{1} << 20;  // bytes of weights too many to read twice a step
  const int64_t by_rows = std::clamp<int64_t>(p.B / kRows, 1, most);
  const int64_t meetings = p.B * 4 * p.H * p.P / (kStep * cpu::kernels<S>().lanes);
  const int64_t by_units =
      std::clamp<int64_t>(std::min((p.H + kColumns - 1) / kColumns, meetings), 1, most);
  const bool once = in_passing || 4 * p.H * p.P * int64_t(sizeof(S)) > kHeavy;
  if (by_units > by_rows || (once && by_units == by_rows)) return {true, by_units};
  return {false, most};
}

// Of a call of which the products of so many inputs are a part. The environment variable STATEFUL_LSTM_SPLIT forces
// "rows" or "units", for tests.
template <class S>
Split split(const SequenceParams<S>& p, cpu::Weights are, int64_t inputs = 0) {
  constexpr int64_t kColumns = 32;  // units that keep a thread's multipliers busy
  const int64_t threads = torch::stable::get_num_threads();
  static const char* name = std::getenv("STATEFUL_LSTM_SPLIT");
  static const std::string forced = name ? name : "";
  STD_TORCH_CHECK(forced.empty() || forced == "rows" || forced == "units",
                  "STATEFUL_LSTM_SPLIT must be rows or units, got ", forced);
  if (!forced.empty()) return {forced == "units", threads};
  const int64_t most = std::max<int64_t>(1, std::min(threads, work_of(p, inputs) / kThreadWork));
  const bool in_passing = are == cpu::Weights::packed_in_passing;
  Split best = {false, std::clamp<int64_t>(p.B, 1, most)};  // nobody is woken for no rows
  if (cpu::kernels<S>().tiled) {
    best = split_of_tiles(p, in_passing, most);
  } else {
    const StepCost<S> cost(p, inputs, are != cpu::Weights::in_place);
    double least = cost.by_rows(best.members);
    for (int64_t members = 2; members <= std::min(most, p.H / kColumns); ++members)
      if (const double cycles = cost.by_units(members); cycles < least) {
        best = {true, members};
        least = cycles;
      }
  }
  if (!best.by_units)
    best.members = std::max<int64_t>(1, (p.B + best.rows(p.B) - 1) / best.rows(p.B));
  return best;
}

}  // namespace stateful_lstm
