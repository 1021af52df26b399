// torch's threads as a team (cpu/team.h).
#pragma once
#include <torch/csrc/stable/ops.h>

#include "cpu/thread_team.h"

namespace stateful_lstm {

// Runs run(part, barrier) by so many members or fewer, who may wait for each other at the barrier. Before, each has
// run prepare(its number, part.call), and none goes on until all have. A thread that comes too late to take part
// prepares in vain, perhaps while the others run: what it reads may be changing, and is not used.
template <class Prepare, class F>
void in_team(int64_t rows, int64_t members, const Prepare& prepare, const F& run) {
  constexpr int64_t kShare = 1 << 20;
  cpu::Barrier barrier;
  cpu::Gathering gathering;
  const int64_t shares = members * kShare;
  torch::stable::parallel_for(0, shares, kShare, [&](int64_t b, int64_t e) {
    // So many calls there are: all get the same number of shares, but for a few that the last lacks.
    const int64_t calls = (shares + (e - b) / 2) / (e - b), call = b * calls / shares;
    prepare(call);
    const cpu::Part part = gathering.enter(rows, call, calls);
    if (part.members > 0) run(part, barrier);
  });
}
template <class F>
void in_team(int64_t rows, int64_t members, const F& run) {
  in_team(rows, members, [](int64_t) {}, run);
}

}  // namespace stateful_lstm
