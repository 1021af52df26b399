// Threads that work on one sequence together, step by step. Compiled once, for any processor.
#pragma once
#include <cstdint>

namespace stateful_lstm::cpu {

// One thread's part of a call: rows [row_begin, row_end), and the share of `member` out of `members` in the
// hidden units. With more than one member, each member has all rows.
struct Part {
  int64_t row_begin, row_end;
  int64_t member, members;
  int64_t call = 0;  // number of the call that runs this part, even if one call runs all
};

// Members wait here for each other. The last arrival releases all. Waiting spins, since a step takes
// microseconds, and yields the processor after a while.
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

// Counts the finished pieces of one thread's work. Other threads wait until the piece that they need is done.
// Unlike at a barrier, a thread that is ahead does not wait for slower threads.
class Progress {
 public:
  void advance() { __atomic_add_fetch(&done_, 1, __ATOMIC_RELEASE); }
  void wait_for(int64_t pieces);

 private:
  alignas(64) int64_t done_ = 0;
};

// Brings together the calls of one parallel loop. torch's pool may start the calls one after the other; a
// call that waits for a later call would then wait forever. So the calls first make sure that all have
// started. If not, the call that has waited long enough does all the work, and the others do none.
class Gathering {
 public:
  // Number `call` of `expected` calls enters and gets its part. A call gets the same part in every loop, so
  // its weights may still be in its cache. members = 0 means no work.
  Part enter(int64_t rows, int64_t call, int64_t expected);

 private:
  int64_t entered_ = 0;
  int64_t decision_ = 0;  // 0 open, 1 all together, 2 one call alone
};

}  // namespace stateful_lstm::cpu
