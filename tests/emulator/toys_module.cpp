// The toy kernels as a Python module: functions of numpy arrays, which they write in place.
#include "arrays.h"
#include "halves.h"
#include "toys.h"

PYBIND11_MODULE(toys, module) {
  using namespace stateful_lstm::toys;
  add(module, "block_sum", block_sum);
  add(module, "warp_sum", warp_sum);
  add(module, "warp_reverse", warp_reverse);
  add(module, "mma_half", mma_half);
  add(module, "mma_bfloat16", mma_bfloat16);
  add(module, "mma_tf32", mma_tf32);
  add(module, "hand_over", hand_over);
  add(module, "ring", ring);
  add(module, "cluster_sum", cluster_sum);
  add(module, "stream", stream);
  add(module, "barriers", barriers);

  add(module, "no_barrier", no_barrier);
  add(module, "shuffle_for_barrier", shuffle_for_barrier);
  add(module, "no_second_barrier", no_second_barrier);
  add(module, "no_copy_wait", no_copy_wait);
  add(module, "no_copy_commit", no_copy_commit);
  add(module, "too_few_copies", too_few_copies);
  add(module, "copy_without_barrier", copy_without_barrier);
  add(module, "write_before_start", write_before_start);
  add(module, "exit_before_barrier", exit_before_barrier);
  add(module, "exit_before_warp_barrier", exit_before_warp_barrier);
  add(module, "divergent_barrier", divergent_barrier);
  add(module, "flags_in_a_circle", flags_in_a_circle);
  add(module, "spin_without_yield", spin_without_yield);
  add(module, "half_the_block_waits", half_the_block_waits);
  add(module, "overrun", overrun);
  add(module, "write_into_exited_block", write_into_exited_block);
  add(module, "wait_without_arrive", wait_without_arrive);
  add(module, "no_flag", no_flag);
  add(module, "relaxed_flag", relaxed_flag);

  const auto half = [](uint16_t bits) { return __half2float({bits}); };
  const auto to_half = [](float number) { return __float2half_rn(number).bits; };
  const auto bfloat16 = [](uint16_t bits) { return __bfloat162float({bits}); };
  const auto to_bfloat16 = [](float number) { return __float2bfloat16_rn(number).bits; };
  module.def("half", py::vectorize(half));
  module.def("to_half", py::vectorize(to_half));
  module.def("bfloat16", py::vectorize(bfloat16));
  module.def("to_bfloat16", py::vectorize(to_bfloat16));
}
