// Copies rows of a batch from and to slots of a state.
//
// read_slots checks the slots on the device: a slot that does not exist, or that two rows name, sets an error word,
// which the host reads in a later call, and the row becomes a padding row.
//
// gather_rows and scatter_rows copy (layers, B, n) numbers of any type as bits X, one number a thread. Padding rows are
// zero after gather_rows and are skipped by scatter_rows. Bound by: memory.
#pragma once
#include "cuda/call.h"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace stateful_lstm::cuda {

// The slots of a batch, int32 or int64, into `rows`. One block; `taken` (slots) is scratch.
template <class Index>
LSTM_KERNEL read_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows,
                       int32_t* taken, uint32_t* error) {
  for (int64_t s = thread(); s < slots; s += threads()) taken[s] = -1;
  block_barrier();
  for (int64_t b = thread(); b < B; b += threads()) {
    const int64_t slot = indices[b];
    const bool exists = slot >= 0 && slot < slots;
    if (!exists && slot != -1) *error = uint32_t(SlotError::no_such_slot);
    if (exists) taken[slot] = int32_t(b);  // if several rows name it, any of them may win
    rows[b] = exists ? slot : -1;
  }
  block_barrier();
  for (int64_t b = thread(); b < B; b += threads()) {
    const int64_t slot = rows[b];
    if (slot >= 0 && taken[slot] != int32_t(b)) {
      *error = uint32_t(SlotError::twice);
      rows[b] = -1;
    }
  }
}

// The place in the state of number `i` of the batch, or -1 in a padding row.
LSTM_DEVICE int64_t place_of(int64_t i, const int64_t* rows, int64_t B, int64_t slots, int64_t n) {
  const int64_t layer = i / (B * n), b = i / n % B, slot = rows != nullptr ? rows[b] : b;
  return slot < 0 ? -1 : (layer * slots + slot) * n + i % n;
}
template <class X>
LSTM_KERNEL gather_rows(X* batch, const X* state, const int64_t* rows, int64_t layers, int64_t B,
                        int64_t slots, int64_t n) {
  for (int64_t i = int64_t(block()) * threads() + thread(); i < layers * B * n;
       i += int64_t(blocks()) * threads()) {
    const int64_t place = place_of(i, rows, B, slots, n);
    batch[i] = place < 0 ? X(0) : state[place];
  }
}
template <class X>
LSTM_KERNEL scatter_rows(X* state, const X* batch, const int64_t* rows, int64_t layers, int64_t B,
                         int64_t slots, int64_t n) {
  for (int64_t i = int64_t(block()) * threads() + thread(); i < layers * B * n;
       i += int64_t(blocks()) * threads()) {
    const int64_t place = place_of(i, rows, B, slots, n);
    if (place >= 0) state[place] = batch[i];
  }
}

// ---- launch --------------------------------------------------------------------------------------

// One thread for each number, up to a size that fills a device.
inline Grid grid_over(int64_t numbers) {
  constexpr int kThreads = 256, kBlocks = 1024;
  const int64_t blocks = (numbers + kThreads - 1) / kThreads;
  return {blocks < kBlocks ? blocks : kBlocks, kThreads, 0};
}
template <class Index>
void launch_read_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows,
                       int32_t* taken, uint32_t* error, const Stream& stream) {
  if (B > 0)
    launch(read_slots<Index>, Grid{1, 256, 0}, stream, indices, B, slots, rows, taken, error);
}
// `kernel`: gather_rows<X> or scatter_rows<X>.
template <class X>
void launch_copy(void (*kernel)(X*, const X*, const int64_t*, int64_t, int64_t, int64_t, int64_t),
                 void* to, const void* from, const int64_t* rows, int64_t layers, int64_t B,
                 int64_t slots, int64_t n, const Stream& stream) {
  launch(kernel, grid_over(layers * B * n), stream, static_cast<X*>(to),
         static_cast<const X*>(from), rows, layers, B, slots, n);
}

}  // namespace stateful_lstm::cuda
