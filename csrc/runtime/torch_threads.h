// torch's thread pool. The runtime uses nothing else of torch, and only this file here includes a torch
// header.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace stateful_lstm {

// The number of threads that torch.set_num_threads allows.
inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// Calls run(b, e) on torch's threads for ranges that cover [begin, end), each at least `grain` long.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& run) {
  torch::stable::parallel_for(begin, end, grain, run);
}

}  // namespace stateful_lstm
