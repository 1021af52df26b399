// Starts the kernels of slots.h on a stream. No memory is taken, nothing waits.
#pragma once
#include "cuda/state_slots.h"
#include "cuda/launch.h"

namespace stateful_lstm::cuda {

// The slots of a batch into `rows` (B); `taken` (slots) is scratch. What is wrong goes to `error`.
template <class Index>
void run_read_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows, int32_t* taken,
                    uint32_t* error, const Stream& stream) {
  if (B > 0)
    launch(read_slots<Index>, Grid{1, 256, 0}, stream, indices, B, slots, rows, taken, error);
}

// A kernel over so many numbers, a thread each up to a size that fills a device.
inline Grid grid_over(int64_t numbers) {
  constexpr int kThreads = 256, kBlocks = 1024;
  const int64_t blocks = (numbers + kThreads - 1) / kThreads;
  return {blocks < kBlocks ? blocks : kBlocks, kThreads, 0};
}
template <class X>
void run_gather(void* batch, const void* state, const int64_t* rows, int64_t layers, int64_t B,
                int64_t slots, int64_t n, const Stream& stream) {
  if (layers * B * n > 0)
    launch(gather_rows<X>, grid_over(layers * B * n), stream, static_cast<X*>(batch),
           static_cast<const X*>(state), rows, layers, B, slots, n);
}
template <class X>
void run_scatter(void* state, const void* batch, const int64_t* rows, int64_t layers, int64_t B,
                 int64_t slots, int64_t n, const Stream& stream) {
  if (layers * B * n > 0)
    launch(scatter_rows<X>, grid_over(layers * B * n), stream, static_cast<X*>(state),
           static_cast<const X*>(batch), rows, layers, B, slots, n);
}

}  // namespace stateful_lstm::cuda
