// Rows of a batch <-> slots of a state.
//
// Slots are looked at on the device: one that is not there, or named twice, writes an error word that the
// host reads when it meets the device next, and its row becomes a padding row.
//
// gather_rows and scatter_rows move (layers, B, n) numbers of any type, as bits X: a thread each. Padding rows
// are zero, and write nothing. What bounds them: memory.
#pragma once
#include "cuda/call.h"
#include "cuda/device.h"

namespace stateful_lstm::cuda {

// The slots of a batch, of either width, into `rows`. One block; `taken` (slots) is scratch.
template <class Index>
LSTM_KERNEL read_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows,
                       int32_t* taken, uint32_t* error) {
  for (int64_t s = thread(); s < slots; s += threads()) taken[s] = -1;
  block_barrier();
  for (int64_t b = thread(); b < B; b += threads()) {
    const int64_t slot = indices[b];
    const bool there = slot >= 0 && slot < slots;
    if (!there && slot != -1) *error = uint32_t(SlotError::no_such_slot);
    if (there) taken[slot] = int32_t(b);  // of several rows one wins, no matter which
    rows[b] = there ? slot : -1;
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

// Where a row's numbers lie in a state, or -1. `i` counts the numbers of the batch.
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

}  // namespace stateful_lstm::cuda
