// How threads share the work of a layer. By rows, threads never wait for each other. By hidden units, each
// member reads its own part of the weights, and the members meet once per step.
//
// The sizes alone decide. A cost model estimates both partitions in cycles of a thread that multiplies two
// vectors per cycle. It counts the distance of the weights and the number of barriers. Measurements:
// docs/internals/performance/zen5.md, "Rows or units".
#pragma once
#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"
#include "runtime/torch_threads.h"

namespace stateful_lstm {

struct Partition {
  bool by_units;
  int64_t members;

  // Rows of one part. At least one, so that callers can divide by it when B = 0.
  int64_t rows(int64_t B) const {
    return std::max<int64_t>(1, by_units ? B : (B + members - 1) / members);
  }
};

namespace heuristics = cpu::heuristics;

template <class S>
int64_t work_of(const SequenceParams<S>& p, int64_t inputs) {
  return p.B * p.T * 4 * p.H * (inputs + p.P + heuristics::kCellWork);
}

// Cycles of one step, from the sizes. Weights and units are counted in vectors, weights in their packed size.
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
    const double lines = double(B_ * H_ * sizeof(Acc<S>)) / 64 * (members - 1) / members;
    const double fetching =
        lines < heuristics::kFirstLines
            ? heuristics::kFirstLineCycles * lines
            : heuristics::kFirstLineCycles * heuristics::kFirstLines +
                  heuristics::kNextLineCycles * (lines - heuristics::kFirstLines);
    return step(B_, members) + heuristics::kMeetingCycles * members + fetching;
  }
  // Whether all weights of the layer fit in one thread's own cache.
  bool near() const { return (h_ + x_) * vector_bytes_ <= heuristics::kNearBytes; }

 private:
  // Cycles of a thread that reads 1/share of the weights for the given number of rows. The thread waits for
  // weights from beyond its own cache. Half of that wait remains even if there are enough multiplications to
  // cover it.
  double step(int64_t rows, int64_t share) const {
    const double computing = rows / 2.0, bytes = h_ * vector_bytes_ / share;
    const double beyond = 1 - std::min(1.0, heuristics::kNearBytes / bytes);
    const double reading = bytes > heuristics::kFarBytes
                               ? heuristics::kMemoryReadCycles
                               : 1 + (heuristics::kSharedReadCycles - 1) * beyond;
    const double waiting = std::max(reading - computing, (reading - 1) / 2);
    const double packing = packs_ ? heuristics::kPackCycles * (h_ + x_) / T_ : 0;
    const double products = h_ * (computing + waiting) + x_ * computing;
    return (products + packing + heuristics::kCellCycles * units_ * rows) / share;
  }
  int64_t B_, H_, T_, units_;
  bool packs_;
  double h_, x_, vector_bytes_;
};

// Tiles multiply faster than any cache but L2 delivers weights, so tiles need many rows to be busy.
template <class S>
Partition partition_of_tiles(const SequenceParams<S>& p, bool on_the_fly, int64_t most) {
  const int64_t by_rows = std::clamp<int64_t>(p.B / heuristics::kTileRowsOfMember, 1, most);
  const int64_t meetings =
      p.B * 4 * p.H * p.P / (heuristics::kTileStepVectors * cpu::kernels<S>().lanes);
  const int64_t by_units = std::clamp<int64_t>(
      std::min((p.H + heuristics::kColumnsOfMember - 1) / heuristics::kColumnsOfMember, meetings),
      1, most);
  const bool once = on_the_fly || 4 * p.H * p.P * int64_t(sizeof(S)) > heuristics::kTileHeavyBytes;
  if (by_units > by_rows || (once && by_units == by_rows)) return {true, by_units};
  return {false, most};
}

// The partition of a call with the given number of inputs. The environment variable STATEFUL_LSTM_SPLIT
// forces "rows" or "units", for tests.
template <class S>
Partition choose_partition(const SequenceParams<S>& p, cpu::Weights are, int64_t inputs = 0) {
  const int64_t threads = thread_count();
  static const char* name = std::getenv("STATEFUL_LSTM_SPLIT");
  static const std::string forced = name ? name : "";
  if (!forced.empty() && forced != "rows" && forced != "units")
    throw std::runtime_error("STATEFUL_LSTM_SPLIT must be rows or units, got " + forced);
  if (!forced.empty()) return {forced == "units", threads};
  const int64_t most =
      std::max<int64_t>(1, std::min(threads, work_of(p, inputs) / heuristics::kCallWork));
  const bool on_the_fly = are == cpu::Weights::packed_on_the_fly;
  Partition best = {false, std::clamp<int64_t>(p.B, 1, most)};  // B = 0 wakes no threads
  if (cpu::kernels<S>().tiled) {
    best = partition_of_tiles(p, on_the_fly, most);
  } else {
    const StepCost<S> cost(p, inputs, are != cpu::Weights::in_place);
    double least = cost.by_rows(best.members);
    for (int64_t members = 2; members <= std::min(most, p.H / heuristics::kColumnsOfMember);
         ++members)
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
