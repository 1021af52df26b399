#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace stateful_lstm::emulator {

Machine* machine = nullptr;

namespace {

constexpr int kWarp = 32;

// Fibers are reused from launch to launch, since creating one takes longer than most kernels. They are never freed: the
// order of destruction at exit is unknown.
auto& spare_fibers = *new std::vector<std::unique_ptr<Fiber>>;

Fiber* take_fiber() {
  if (spare_fibers.empty()) spare_fibers.push_back(std::make_unique<Fiber>());
  Fiber* fiber = spare_fibers.back().release();
  spare_fibers.pop_back();
  return fiber;
}

void thread_main() {
  Thread& self = *machine->current;
  machine->kernel.call(machine->kernel.with);
  self.request = {};
  self.request.kind = Request::finish;
  self.fiber->pause();
}

void check(const Grid& grid) {
  if (machine != nullptr) throw std::invalid_argument("one launch at a time");
  if (grid.blocks < 1 || grid.threads < 1 || grid.threads > 1024) {
    throw std::invalid_argument("a grid needs blocks, and each of them 1 to 1024 threads");
  }
  if (grid.cluster < 1 || grid.blocks % grid.cluster != 0) {
    throw std::invalid_argument("the grid's blocks are not a multiple of the cluster's");
  }
}

}  // namespace

Machine::Machine(const Grid& grid, Kernel kernel)
    : grid(grid), kernel(kernel), random(grid.options.seed) {
  if (const char* number = std::getenv("EMULATOR_MUTANT")) mutant = std::atoi(number);
  const int warps = (grid.threads + kWarp - 1) / kWarp;
  clusters.resize(grid.blocks / grid.cluster);
  blocks.resize(grid.blocks);
  threads.resize(static_cast<size_t>(grid.blocks) * grid.threads);
  for (Block& block : blocks) {
    block.index = static_cast<int>(&block - blocks.data());
    block.alive = grid.threads;
    block.arena = std::make_unique<Arena>(grid.shared_bytes, grid.options.fill);
    block.cluster = &clusters[block.index / grid.cluster];
    block.cluster->first_block = block.index / grid.cluster * grid.cluster;
    block.cluster->meeting.expected = grid.cluster * grid.threads;
    block.meeting.expected = grid.threads;
    block.warps.resize(warps);
    // Some blocks and warps are slow, so that others run far ahead of them.
    const int slowness[] = {0, 0, 8, 15};
    const int of_block = grid.options.seed == 0 ? 0 : slowness[draw(4)];
    for (int w = 0; w < warps; ++w) {
      block.warps[w].expected = std::min(kWarp, grid.threads - w * kWarp);
      const int of_warp = grid.options.seed == 0 ? 0 : slowness[draw(4)];
      for (int i = w * kWarp; i < w * kWarp + block.warps[w].expected; ++i) {
        Thread& thread = this->thread(block.index, i);
        thread.index = i;
        thread.block = &block;
        thread.warp = &block.warps[w];
        thread.slowness = std::max(of_block, of_warp);
        thread.fiber = take_fiber();
        thread.fiber->start_at(thread_main);
        thread.fiber->set_name(
            ("block " + std::to_string(block.index) + " thread " + std::to_string(i)).c_str());
      }
    }
  }
  // Last, so that all threads see the setup.
  for (Thread& thread : threads) thread.fiber->sees_outside();
  machine = this;
}

Machine::~Machine() {
  machine = nullptr;
  // All threads' writes happen before the caller's next reads.
  for (Thread& thread : threads) thread.fiber->seen_outside();
  for (Thread& thread : threads) {
    std::unique_ptr<Fiber> fiber(thread.fiber);
    // A fiber abandoned in the middle cannot be reused.
    if (thread.finished) spare_fibers.push_back(std::move(fiber));
  }
}

// splitmix64, by Sebastiano Vigna (public domain)
uint32_t Machine::draw(uint32_t bound) {
  uint64_t z = random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ (z >> 31)) % bound);
}

void Machine::run() {
  std::vector<Thread*> ready;
  for (int idle = 0;;) {
    ready.clear();
    bool all_finished = true;
    for (Thread& thread : threads) {
      all_finished &= thread.finished;
      if (thread.can_run()) ready.push_back(&thread);
    }
    if (all_finished) return;
    if (ready.empty()) deadlock(*this, "no thread can run");
    if (idle > grid.options.patience) deadlock(*this, "threads only spin");
    if (grid.options.seed != 0) {
      for (size_t i = ready.size(); i > 1; --i) std::swap(ready[i - 1], ready[draw(i)]);
    }
    progress = false;
    for (Thread* thread : ready) {
      if (thread->slowness > 0 && static_cast<int>(draw(16)) < thread->slowness) continue;
      if (!thread->block->started) start(*thread->block);
      current = thread;
      thread->waits_for = nullptr;
      thread->polls = 0;
      thread->fiber->run();
      serve(*thread);
    }
    idle = progress ? 0 : idle + 1;
  }
}

// Blocks of a cluster exist together, but may begin one after another.
void Machine::start(Block& block) {
  block.started = true;
  if (block.arena->untouched()) return;
  throw std::runtime_error("shared memory of block " + std::to_string(block.index) +
                           ": a write before the block had started");
}

// Serves the request for which the thread paused.
void Machine::serve(Thread& thread) {
  const Request& request = thread.request;
  Meeting* meeting = request.meeting;
  if (request.kind != Request::spin) progress = true;
  switch (request.kind) {
    case Request::meet:
      thread.waits_for = meeting;
      thread.generation = meeting->generation;
      arrive(*meeting, thread);
      break;
    case Request::arrive:
      arrive(*meeting, thread);
      break;
    case Request::wait:
      thread.waits_for = meeting;
      thread.generation = thread.cluster_generation;
      break;
    case Request::finish:
      finish(thread);
      break;
    case Request::fail:
      thread.fiber->seen_outside();
      throw std::runtime_error("thread " + std::to_string(thread.index) + " of block " +
                               std::to_string(thread.block->index) + ": " + request.name + " at " +
                               request.file + ":" + std::to_string(request.line) + ": " +
                               thread.fault);
    case Request::spin:
    case Request::turn:
    case Request::none:
      break;
  }
}

void Machine::finish(Thread& thread) {
  thread.finished = true;
  leave_for_good(*thread.warp, thread);
  leave_for_good(thread.block->meeting, thread);
  leave_for_good(thread.block->cluster->meeting, thread);
  if (--thread.block->alive == 0) finish(*thread.block);
}

void Machine::finish(Block& block) {
  for (int i = 0; i < grid.threads; ++i) thread(block.index, i).fiber->seen_outside();
  block.arena->close();
}

void launch(const Grid& grid, Kernel kernel) {
  check(grid);
  Machine here(grid, kernel);
  here.run();
  for (const Block& block : here.blocks) {
    const std::string faults = block.arena->faults();
    if (faults.empty()) continue;
    throw std::runtime_error("shared memory of block " + std::to_string(block.index) + ": " +
                             faults);
  }
}

}  // namespace stateful_lstm::emulator
