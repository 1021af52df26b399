// torch's pool of threads: all that the runtime uses of torch. No other file here includes a header of torch.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace stateful_lstm {

// Threads that torch.set_num_threads allows.
inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// run(b, e) for ranges that cover [begin, end), on torch's threads; `grain`: numbers in a range, at least.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& run) {
  torch::stable::parallel_for(begin, end, grain, run);
}

}  // namespace stateful_lstm
