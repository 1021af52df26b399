// Runs a kernel, every CUDA thread as a fiber. All blocks of the grid are there at once, so that they
// may wait for each other. Returns when all threads have; throws std::runtime_error, with the kernel's
// lines, where the threads would hang or do what CUDA leaves undefined (see machine.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace stateful_lstm::emulator {

struct Options {
  uint64_t seed = 1;    // of the order in which threads run; 0: in turn, none slower than others
  int patience = 2000;  // rounds in which all that can run only spin, until that is a deadlock
  unsigned char fill = 255;  // what is in shared memory at first: NaN, for every kind of number
};

struct Grid {
  int blocks;
  int threads;      // of a block
  int cluster = 1;  // blocks of a cluster
  size_t shared_bytes = 0;
  Options options = {};
};

// What each thread calls. (A std::function would add five lines to each of ThreadSanitizer's stacks.)
struct Kernel {
  void (*call)(const void* with);
  const void* with;
};
void launch(const Grid& grid, Kernel kernel);

// kernel<<<grid>>>(values...)
template <class... Params, class... Values>
void launch(const Grid& grid, void (*kernel)(Params...), const Values&... values) {
  const auto call = [&] { kernel(values...); };
  using Call = decltype(call);
  launch(grid, Kernel{[](const void* with) { (*static_cast<Call*>(with))(); }, &call});
}

}  // namespace stateful_lstm::emulator
