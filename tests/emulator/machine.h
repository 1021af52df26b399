// The emulated machine: its threads, the places where they meet, and who runs next.
//
// Two sides share these structs, and never at one time. A thread's side (device.cpp) says what the
// thread wants, and pauses; the machine's side (machine.cpp, meeting.cpp), on the stack that called
// launch(), does all the rest. So ThreadSanitizer sees none of the bookkeeping as a thread's doing.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "launch.h"

namespace stateful_lstm::emulator {

struct Meeting;
struct Thread;

// What a thread pauses for, and where in the kernel's source.
struct Request {
  enum Kind { none, meet, arrive, wait, spin, turn, finish, fail } kind = none;
  const char* name = "";  // as the kernel calls it
  const char* file = "";
  int line = 0;
  Meeting* meeting = nullptr;
};

// A place where threads meet: when `expected` of them have arrived, all go on, and it starts anew.
struct Meeting {
  int expected = 0;
  int arrived = 0;
  uint64_t generation = 0;         // how often all have met
  const Thread* first = nullptr;   // of those arrived
  const Thread* exited = nullptr;  // a thread that will not come any more
  // For ThreadSanitizer. Two: the fast may arrive for the next time before the slow have left.
  uint64_t tags[2] = {0, 0};
  void* tag(uint64_t of) { return &tags[of & 1]; }
};

// Shared memory of one block, with bytes around it that nobody may change.
class Arena {
 public:
  Arena(size_t bytes, unsigned char fill);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  unsigned char* begin() const { return begin_; }
  bool has(const void* place, size_t bytes) const;
  bool untouched() const;
  // The block is done: whoever still reads finds NaN, and who writes is found out at the end.
  void close();
  // What is wrong, or nothing.
  std::string faults() const;

 private:
  size_t bytes_;
  unsigned char* memory_;
  unsigned char* begin_;
  unsigned char fill_;
  bool closed_ = false;
};

struct Cluster {
  int first_block;
  Meeting meeting;
};

struct Block {
  int index;
  int alive;  // threads that have not exited
  bool started = false;
  std::unique_ptr<Arena> arena;
  Cluster* cluster;
  Meeting meeting;
  std::vector<Meeting> warps;
};

// What a thread shows the others of its warp: a number to shuffle, or its fragments for mma.
struct Shown {
  uint64_t words[4];
};

struct Copy {
  void* to;
  const void* from;
};

struct Thread {
  int index;
  Block* block;
  Meeting* warp;
  Fiber* fiber;
  Request request;
  std::string fault;  // with Request::fail

  Meeting* waits_for = nullptr;
  uint64_t generation = 0;          // which meeting of it
  bool between = false;             // has arrived at the cluster's meeting and not yet waited
  uint64_t cluster_generation = 0;  // of that
  bool finished = false;
  int slowness = 0;  // of 16 rounds, how many it misses on average

  int polls = 0;                               // flags read since it last paused
  Shown shown[2];                              // to the others of its warp. Two: see Meeting::tags
  std::vector<Copy> open_copies;               // not yet in a group
  std::vector<std::vector<Copy>> copy_groups;  // under way, the oldest first

  bool can_run() const {
    return !finished && (waits_for == nullptr || waits_for->generation > generation);
  }
};

struct Machine {
  Machine(const Grid& grid, Kernel kernel);
  ~Machine();
  void run();
  // A number below `bound`, the next of the seed's sequence.
  uint32_t draw(uint32_t bound);
  Thread& thread(int block, int index) { return threads[block * grid.threads + index]; }

  Grid grid;
  Kernel kernel;
  std::vector<Cluster> clusters;
  std::vector<Block> blocks;
  std::vector<Thread> threads;
  Thread* current = nullptr;
  uint64_t random;
  int mutant = 0;  // which of its switches the kernel has thrown (mutate.py); 0: none
  bool progress =
      false;  // since it was last looked at, something happened that others may wait for

 private:
  void start(Block& block);
  void serve(Thread& thread);
  void finish(Thread& thread);
  void finish(Block& block);
};

extern Machine* machine;  // the one that runs

// ---- meeting.cpp: each of them throws when the meeting can never take place ----

void arrive(Meeting& meeting, Thread& thread);
void leave_for_good(Meeting& meeting, const Thread& thread);
// Everyone who can run spins, or nobody can run.
[[noreturn]] void deadlock(const Machine& machine, const char* what);

}  // namespace stateful_lstm::emulator
