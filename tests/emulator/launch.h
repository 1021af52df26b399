// Runs a kernel, every CUDA thread as a fiber. All blocks of the grid exist at once, so they may wait for
// each other. It returns when all threads have returned, and throws std::runtime_error with the kernel's lines where
// threads would hang or do something that CUDA leaves undefined (see machine.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace stateful_lstm::emulator {

struct Options {
  uint64_t seed = 1;  // of the order in which threads run; 0: in turn, none slower than others
  int patience =
      2000;  // rounds in which all running threads only spin before it counts as a deadlock
  unsigned char fill = 255;  // the initial bytes of shared memory: NaN in every number type
};

struct Grid {
  int blocks;
  int threads;      // of a block
  int cluster = 1;  // blocks of a cluster
  size_t shared_bytes = 0;
  Options options = {};
};

// The function that each thread calls. (A std::function would add five lines to each of ThreadSanitizer's stacks.)
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
