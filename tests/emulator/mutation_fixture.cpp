// For mutate.py: a barrier that is needed, one that is not, and one that is marked as not needed.
#include "cuda/device.h"
#include "launch.h"

namespace {

using namespace stateful_lstm::cuda;

LSTM_KERNEL reverse_kernel(const float* x, float* y) {
  auto* all = static_cast<float*>(shared_memory());  // (threads)
  all[thread()] = x[thread()];
  block_barrier();  // needed
  y[thread()] = all[threads() - 1 - thread()];
  block_barrier();  // superfluous
  block_barrier();  // not needed for correctness: an example
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void reverse(const float* x, float* y,
                                                               int threads, int seed) {
  using namespace stateful_lstm;
  emulator::Options options;
  options.seed = seed;
  emulator::launch({1, threads, 1, threads * sizeof(float), options}, reverse_kernel, x, y);
}
