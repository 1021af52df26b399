// What crosses from the binding to the CUDA code: plain structs of pointers and sizes, the stream, and what the
// plan knows of a device. No kernel, and nothing that only nvcc understands: the binding includes this.
//
// Letters and meanings as in ../params.h. Here the inputs' product with weight_ih is there already: gates_x.
// The caller owns all memory, scratch included, and none of it overlaps.
#pragma once
#include <string>

#include "params.h"

#if defined(STATEFUL_LSTM_EMULATOR)
#include "../../tests/emulator/launch.h"
#else
struct CUstream_st;
#endif

struct __half;
struct __nv_bfloat16;

namespace stateful_lstm {
namespace cuda {
using Half = ::__half;
using Bfloat16 = ::__nv_bfloat16;

#if defined(STATEFUL_LSTM_EMULATOR)
using Stream = emulator::Options;  // of the machine that stands in for a device
#else
using Stream = CUstream_st*;
#endif
}  // namespace cuda

template <>
struct AccOf<cuda::Half> {
  using type = float;
};
template <>
struct AccOf<cuda::Bfloat16> {
  using type = float;
};

namespace cuda {

struct Device {
  int arch;              // 90 for compute capability 9.0
  int processors;        // SMs
  int64_t shared_bytes;  // of shared memory that a block may ask for
  int cluster_blocks;    // of the largest cluster; 1: it has none
};

struct Call {
  int64_t T, B, H, P;
  bool tf32;  // whether float may be multiplied as TF32
  bool backward;
};

template <class S>
struct Forward : SequenceParams<S> {
  const Acc<S>* gates_x;  // (T, B, 4H)
  const S* bias_ih;       // (4H) or null
  const S* bias_hh;       // (4H) or null
  const S* h0;            // (B, P)
  S* y;                   // (T, B, P) zero where t >= lengths[b]
  S* h_n;                 // (B, P)
  Acc<S>* c_n;            // (B, H)
  S* gates;               // (T, B, 4H) activated, for backward, or null
  Acc<S>* cells;          // (T, B, H) for backward, or null
  S* h;                   // (2, B, P) scratch: what a step reads and what it writes
  Acc<S>* c;              // (B, H) scratch
  Acc<S>* hidden;         // (B, H) scratch: h before the projection; null without one
};

template <class S>
struct Backward : BackwardParams<S> {
  Acc<S>* dh;  // (2, B, P) scratch: the gradient of h, of this step and of the one after
  Acc<S>* dc;  // (B, H) scratch
};

// One step of one layer and direction, in place on resident state.
template <class S>
struct ResidentStep {
  int64_t B, I, H, P, slots;
  int64_t x_stride, y_stride;  // elements from one row to the next
  bool from_zero;              // start at zero whatever the state holds (reverse direction)
  const S* weight_ih;          // (4H, I)
  const S* weight_hh;          // (4H, P)
  const S* bias_ih;            // (4H) or null
  const S* bias_hh;            // (4H) or null
  const S* weight_hr;          // (P, H) or null
  const S* x;                  // (B, I)
  const int64_t* rows;         // (B) slot of each row, -1: padding; null: row b is slot b
  const bool* reset;           // (B) or null
  S* h;                        // (slots, P) resident
  Acc<S>* c;                   // (slots, H) resident
  S* y;                        // (B, P) zero in padding rows
  S* h_n;                      // (B, P)
  S* c_n;                      // (B, H)
  Acc<S>* hidden;              // (B, H) scratch with a projection
};

// Why a batch of slots cannot be; none: it can.
enum class SlotError : uint32_t { none, no_such_slot, twice };

}  // namespace cuda
}  // namespace stateful_lstm
