// A thread's side of the emulator: each function runs on the stack of the thread that called it.
#include "emulator.h"

#include "machine.h"
#include "tsan.h"

namespace stateful_lstm::emulator {
namespace {

constexpr int kWarp = 32;
constexpr int kManyPolls = 1000000;

Thread& self() { return *machine->current; }

void pause(Thread& thread, Request::Kind kind, Meeting* meeting, const char* name, const char* file,
           int line) {
  thread.request.kind = kind;
  thread.request.name = name;
  thread.request.file = file;
  thread.request.line = line;
  thread.request.meeting = meeting;
  thread.fiber->pause();
}

// Ends the launch.
void fail(const char* name, const char* file, int line, const char* fault) {
  Thread& thread = self();
  thread.fault = fault;
  pause(thread, Request::fail, nullptr, name, file, line);
}

// All threads go on when the last has arrived, and see the earlier writes of the others.
void meet(Meeting& meeting, const char* name, const char* file, int line) {
  Thread& thread = self();
  void* tag = meeting.tag(meeting.generation);
  tsan::release(tag);
  pause(thread, Request::meet, &meeting, name, file, line);
  tsan::acquire(tag);
}

// Shows 32 bytes to the warp and returns the place of lane 0's; lane i's are i threads further on.
struct Warp {
  const Thread* first;
  int which;
  const Shown& operator[](int lane) const { return first[lane].shown[which]; }
};
Warp show(const Shown& shown, const char* name, const char* file, int line) {
  Thread& thread = self();
  const int which = thread.warp->generation & 1;
  thread.shown[which] = shown;
  pause(thread, Request::meet, thread.warp, name, file, line);
  return {&thread - thread.index % kWarp, which};
}

void deliver(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    tsan::reads16(copy.from);
    tsan::writes16(copy.to);
    std::memcpy(copy.to, copy.from, 16);
  }
}

}  // namespace

Where where() {
  const Thread& thread = self();
  const Grid& grid = machine->grid;
  return {thread.index,
          grid.threads,
          thread.block->index,
          grid.blocks,
          thread.block->index - thread.block->cluster->first_block,
          grid.cluster};
}

void* shared_memory() { return self().block->arena->begin(); }

void* cluster_shared(void* own, int rank) {
  const Thread& thread = self();
  if (!thread.block->arena->has(own, 1)) {
    fail("cluster_shared", "?", 0, "not a place in the block's shared memory");
  }
  if (rank < 0 || rank >= machine->grid.cluster) {
    fail("cluster_shared", "?", 0, "no such block in the cluster");
  }
  const auto offset = static_cast<unsigned char*>(own) - thread.block->arena->begin();
  return machine->blocks[thread.block->cluster->first_block + rank].arena->begin() + offset;
}

void block_barrier(const char* file, int line) {
  meet(self().block->meeting, "block_barrier", file, line);
}

void warp_barrier(const char* file, int line) { meet(*self().warp, "warp_barrier", file, line); }

void cluster_arrive(const char* file, int line) {
  Thread& thread = self();
  if (thread.between) fail("cluster_arrive", file, line, "arrives twice without cluster_wait");
  Meeting& meeting = thread.block->cluster->meeting;
  thread.between = true;
  thread.cluster_generation = meeting.generation;
  tsan::release(meeting.tag(thread.cluster_generation));
  pause(thread, Request::arrive, &meeting, "cluster_arrive", file, line);
}

void cluster_wait(const char* file, int line) {
  Thread& thread = self();
  if (!thread.between) fail("cluster_wait", file, line, "waits without cluster_arrive");
  Meeting& meeting = thread.block->cluster->meeting;
  thread.between = false;
  pause(thread, Request::wait, &meeting, "cluster_wait", file, line);
  tsan::acquire(meeting.tag(thread.cluster_generation));
}

void spin(const char* file, int line) {
  pause(self(), Request::spin, nullptr, "emulator_yield", file, line);
}

void polls(const char* file, int line) {
  if (++self().polls > kManyPolls) {
    fail("load_acquire", file, line, "in a loop without emulator_yield");
  }
}

void published() {
  machine->progress = true;
  if (machine->grid.options.seed != 0 && machine->draw(2) == 0) {
    pause(self(), Request::turn, nullptr, "store", "", 0);
  }
}

bool is_mutant(int number) { return machine->mutant == number; }

void shuffle_bytes(void* bytes, int lane, const char* name, const char* file, int line) {
  if (lane < 0 || lane >= self().warp->expected) fail(name, file, line, "no such lane");
  Shown& value = *static_cast<Shown*>(bytes);
  value = show(value, name, file, line)[lane];
}

void copy_async(void* shared, const void* global, const char* file, int line) {
  Thread& thread = self();
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(shared) || !aligned(global)) {
    fail("copy_async", file, line, "a place that is not 16 bytes aligned");
  }
  if (!thread.block->arena->has(shared, 16)) {
    fail("copy_async", file, line, "not to the block's shared memory");
  }
  tsan::enter(__builtin_return_address(0));  // the kernel's line, for reports
  tsan::writes16(shared);
  tsan::leave();
  for (int i = 0; i < 2; ++i) static_cast<uint64_t*>(shared)[i] = ~uint64_t{0};
  thread.open_copies.push_back({shared, global});
}

void copy_async_commit() {
  Thread& thread = self();
  thread.copy_groups.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}

void copy_async_wait(int pending) {
  auto& groups = self().copy_groups;
  tsan::enter(__builtin_return_address(0));
  while (groups.size() > static_cast<size_t>(pending)) {
    deliver(groups.front());
    groups.erase(groups.begin());
  }
  tsan::leave();
}

// csrc/cuda/device.h documents the layouts of the fragments. Products are summed in float, in the order of k.
void mma(float* d, const uint32_t* a, const uint32_t* b, Numbers numbers, const char* file,
         int line) {
  struct Fragments {
    uint32_t a[4], b[2], unused[2];
  };
  if (self().warp->expected != kWarp) fail("mma", file, line, "a warp of less than 32");
  const Fragments own = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {0, 0}};
  const Warp warp = show(same_bits<Shown>(own), "mma", file, line);
  const auto fragments = [&](int lane) { return same_bits<Fragments>(warp[lane]); };

  // Element k of one register.
  const auto number = [&](uint32_t word, int k) {
    if (numbers == Numbers::tf32) return same_bits<float>(word & ~0x1fffu);
    const auto bits = static_cast<uint16_t>(word >> (k % 2 * 16));
    return numbers == Numbers::half ? __half2float({bits}) : __bfloat162float({bits});
  };
  const int each = numbers == Numbers::tf32 ? 1 : 2;  // numbers in a register
  const int depth = 8 * each;
  const int lane = self().index % kWarp;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < depth; ++k) {
      const int pair = k / each % 4;
      const int half = k / each / 4;  // of the depth
      const uint32_t left = fragments(row % 8 * 4 + pair).a[row / 8 + half * 2];
      const uint32_t right = fragments(column * 4 + pair).b[half];
      d[i] += number(left, k) * number(right, k);
    }
  }
}

}  // namespace stateful_lstm::emulator
