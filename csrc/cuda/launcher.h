// What the binding calls: the plan, and each call on a stream. No torch, no kernel: any compiler reads this.
//
// Each throws std::runtime_error where CUDA fails. Nothing here waits for the device or takes memory, but for
// error_word() the first time, so that a CUDA graph can hold all of it.
#pragma once
#include "cuda/call.h"

namespace stateful_lstm::cuda {

// The architectures that the kernels were built for, "75,80,90a"; empty: built without CUDA.
const char* built_for();

// What the plan knows of a device; asked once for each.
Device device(int index);
#if defined(STATEFUL_LSTM_EMULATOR)
extern Device emulated;  // what device() answers; tests may ask for another
#endif

// The kernel that a call gets, and why: one line.
template <class S>
std::string explain(const Call& call, const Device& on);

// Words of scratch that the call's kernel needs, at least one.
template <class S>
int64_t count_words(const Call& call, const Device& on);

template <class S>
void forward(const Forward<S>& p, bool tf32, uint32_t* counts, const Device& on,
             const Stream& stream);
template <class S>
void backward(const Backward<S>& p, bool tf32, uint32_t* counts, const Device& on,
              const Stream& stream);
template <class S>
void resident_step(const ResidentStep<S>& p, bool tf32, const Device& on, const Stream& stream);

// The slots of a batch, int32 or int64, into `rows` (B); `taken` (slots) is scratch.
template <class Index>
void slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows, int32_t* taken,
           uint32_t* error, const Stream& stream);
// Rows of a batch (layers, B, n) from and to slots of a state (layers, slots, n), numbers of 2, 4 or 8 bytes.
// `rows` null: row b is slot b. Padding rows are zero, and write nothing.
void gather(void* batch, const void* state, int64_t bytes, const int64_t* rows, int64_t layers,
            int64_t B, int64_t slots, int64_t n, const Stream& stream);
void scatter(void* state, const void* batch, int64_t bytes, const int64_t* rows, int64_t layers,
             int64_t B, int64_t slots, int64_t n, const Stream& stream);

// Where a kernel on this device says that a batch of slots could not be (SlotError): memory that the host
// reads without waiting.
uint32_t* error_word(int device);

}  // namespace stateful_lstm::cuda
