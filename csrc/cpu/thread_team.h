// Threads that work on one sequence together, step by step. Compiled once, for any processor.
#pragma once
#include <cstdint>

namespace stateful_lstm::cpu {

// The part of a call that one thread runs: rows [row_begin, row_end), and of the hidden units the share of
// `member` out of `members`. With more than one member each has all rows.
struct Part {
  int64_t row_begin, row_end;
  int64_t member, members;
  int64_t call = 0;  // whose part it is, also where one call has all
};

// Members wait here for each other; the last to arrive releases all. Waiting spins, since a step takes
// microseconds, and yields the processor if it takes long.
class Barrier {
 public:
  void wait(int64_t members) {
    if (members > 1) wait_for_others(members);
  }

 private:
  void wait_for_others(int64_t members);
  alignas(64) int64_t arrived_ = 0;
  alignas(64) int64_t round_ = 0;
};

// How many pieces of its work one thread has done, for others to wait until what they need is there: unlike at a
// barrier, who is ahead does not wait for who is behind.
class Progress {
 public:
  void advance() { __atomic_add_fetch(&done_, 1, __ATOMIC_RELEASE); }
  void wait_for(int64_t pieces);

 private:
  alignas(64) int64_t done_ = 0;
};

// Brings together the calls of one parallel loop. torch's pool may start them one after the other,
// where waiting for each other would never end; so before the work begins they make sure that all
// are there. If not, the one that has waited long enough does all the work, and the others none.
class Gathering {
 public:
  // Number `call` of `expected` calls enters and gets its part, the same in every loop, whose weights may
  // still be in its cache; with members = 0 there is nothing to do.
  Part enter(int64_t rows, int64_t call, int64_t expected);

 private:
  int64_t entered_ = 0;
  int64_t decision_ = 0;  // 0 open, 1 all together, 2 one alone
};

}  // namespace stateful_lstm::cpu
