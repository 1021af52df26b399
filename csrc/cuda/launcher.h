// The interface to the binding: the plan of a call, and each call on a stream. It includes neither torch nor a kernel,
// so any compiler can read it.
//
// Functions throw std::runtime_error where CUDA fails. Nothing here waits for the device or allocates memory, except
// the first call of error_word() for a device, so a CUDA graph can hold all of it.
#pragma once
#include <string>

#include "cuda/call.h"

namespace stateful_lstm::cuda {

// The architectures that the kernels were built for, "75,80,90a"; empty: built without CUDA.
const char* built_for();

// The limits of a device; queried once for each.
DeviceLimits limits_of(int device);
#if defined(STATEFUL_LSTM_EMULATOR)
extern DeviceLimits emulated_limits;         // what limits_of() returns; tests set it
extern int64_t plans_made, plans_explained;  // since the process started
#endif

// The plan of a call: made once, for its workspace and its launch. It builds no text.
template <class S>
Plan choose(const CallSpec& call, const DeviceLimits& device);
// The plan of an inference step (T = 1), for all layers and directions.
template <class S>
Plan choose_step(const CallSpec& call, const DeviceLimits& device);
// The kernel of a call, and why no other: one line of text.
template <class S>
std::string explain(const CallSpec& call, const DeviceLimits& device);

// `workspace` has plan.workspace_words(); it need not be zero.
template <class S>
void forward(const ForwardArgs<S>& p, const Plan& plan, uint32_t* workspace, const Stream& stream);
template <class S>
void backward(const BackwardArgs<S>& p, const Plan& plan, uint32_t* workspace,
              const Stream& stream);
template <class S>
void inference_step(const InferenceStepArgs<S>& p, const Plan& plan, const Stream& stream);

// Reads the slots of a batch, int32 or int64, into `rows` (B); `taken` (slots) is scratch.
template <class Index>
void resolve_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows, int32_t* taken,
                   uint32_t* error, const Stream& stream);
// Copies rows of a batch (layers, B, n) from and to slots of a state (layers, slots, n), numbers of 2, 4 or 8 bytes.
// `rows` null: row b is slot b. Padding rows are zero in the batch and are not written to the state.
void gather(void* batch, const void* state, int64_t bytes, const int64_t* rows, int64_t layers,
            int64_t B, int64_t slots, int64_t n, const Stream& stream);
void scatter(void* state, const void* batch, int64_t bytes, const int64_t* rows, int64_t layers,
             int64_t B, int64_t slots, int64_t n, const Stream& stream);

// The word in which kernels on this device report invalid slots (SlotError): memory that the host reads without
// waiting.
uint32_t* error_word(int device);

}  // namespace stateful_lstm::cuda
