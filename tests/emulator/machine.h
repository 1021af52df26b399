// The emulated machine: its threads, the barriers where they meet, and the order in which they run.
//
// Two sides share these structs, never at the same time. The thread's side (device.cpp) records a request and pauses;
// the machine's side (machine.cpp, meeting.cpp), on the stack that called launch(), does the rest. So ThreadSanitizer
// attributes none of the bookkeeping to a thread.
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

// The reason why a thread pauses, and its place in the kernel's source.
struct Request {
  enum Kind { none, meet, arrive, wait, spin, turn, finish, fail } kind = none;
  const char* name = "";  // as the kernel calls it
  const char* file = "";
  int line = 0;
  Meeting* meeting = nullptr;
};

// A barrier: when `expected` threads have arrived, all go on, and the next generation begins.
struct Meeting {
  int expected = 0;
  int arrived = 0;
  uint64_t generation = 0;         // how often all have met
  const Thread* first = nullptr;   // of those arrived
  const Thread* exited = nullptr;  // a thread that will never arrive
  // For ThreadSanitizer. Two, since fast threads may arrive at the next meeting before slow ones have left this one.
  uint64_t tags[2] = {0, 0};
  void* tag(uint64_t of) { return &tags[of & 1]; }
};

// Shared memory of one block, between margins that nobody may change.
class Arena {
 public:
  Arena(size_t bytes, unsigned char fill);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  unsigned char* begin() const { return begin_; }
  bool has(const void* place, size_t bytes) const;
  bool untouched() const;
  // The block has ended: later reads give NaN, and later writes are detected at the end of the launch.
  void close();
  // The fault, or an empty text.
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

// The value that a thread shows to the others of its warp: a number to shuffle, or its fragments for mma.
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
  bool between = false;             // has arrived at the cluster's barrier and not yet waited
  uint64_t cluster_generation = 0;  // of that
  bool finished = false;
  int slowness = 0;  // of 16 rounds, how many it misses on average

  int polls = 0;                               // flags read since it last paused
  Shown shown[2];                              // to the others of its warp. Two: see Meeting::tags
  std::vector<Copy> open_copies;               // not yet in a group
  std::vector<std::vector<Copy>> copy_groups;  // in flight, the oldest first

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
// A deadlock: all threads that can run spin, or none can run.
[[noreturn]] void deadlock(const Machine& machine, const char* what);

}  // namespace stateful_lstm::emulator
