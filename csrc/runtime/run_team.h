// Runs torch's threads as a team (cpu/thread_team.h).
#pragma once
#include "cpu/heuristics.h"
#include "cpu/thread_team.h"
#include "runtime/torch_threads.h"

namespace stateful_lstm {

// Calls run(part, barrier) on at most the given number of members, which may wait for each other at the
// barrier. Each member first calls prepare(its number, part.call), and no member continues until all have. A
// thread that arrives too late to join still prepares, perhaps while the others run. Its inputs may change
// meanwhile, and its result is not used.
template <class Prepare, class F>
void run_team(int64_t rows, int64_t members, const Prepare& prepare, const F& run) {
  cpu::Barrier barrier;
  cpu::Gathering gathering;
  const int64_t shares = members * cpu::heuristics::kTeamShare;
  parallel_for(0, shares, cpu::heuristics::kTeamShare, [&](int64_t b, int64_t e) {
    // The number of calls. All calls get the same number of shares, except the last, which may have fewer.
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
