// torch's threads as a team (cpu/thread_team.h).
#pragma once
#include "cpu/heuristics.h"
#include "cpu/thread_team.h"
#include "runtime/torch_threads.h"

namespace stateful_lstm {

// Runs run(part, barrier) by so many members or fewer, who may wait for each other at the barrier. Before, each has
// run prepare(its number, part.call), and none goes on until all have. A thread that comes too late to take part
// prepares for nothing, perhaps while the others run: its inputs may be changing, and its result is not used.
template <class Prepare, class F>
void run_team(int64_t rows, int64_t members, const Prepare& prepare, const F& run) {
  cpu::Barrier barrier;
  cpu::Gathering gathering;
  const int64_t shares = members * cpu::heuristics::kTeamShare;
  parallel_for(0, shares, cpu::heuristics::kTeamShare, [&](int64_t b, int64_t e) {
    // So many calls there are: all get the same number of shares, but for a few that the last lacks.
    const int64_t calls = (shares + (e - b) / 2) / (e - b), call = b * calls / shares;
    prepare(call);
    const cpu::Part part = gathering.enter(rows, call, calls);
    if (part.members > 0) run(part, barrier);
  });
}
template <class F>
void run_team(int64_t rows, int64_t members, const F& run) {
  run_team(rows, members, [](int64_t) {}, run);
}

}  // namespace stateful_lstm
