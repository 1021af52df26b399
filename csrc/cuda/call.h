// The structs that cross from the binding to the CUDA code: pointers, sizes, the stream, a device's limits and the
// plan of a call. It has no kernel and nothing that only nvcc understands, since the binding includes it.
//
// Letters and meanings as in ../params.h. The product of the inputs with weight_ih, gates_x, is computed before.
// The caller owns all memory, scratch included, and none of it overlaps.
#pragma once
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

// The properties of a device that decide which kernel fits.
struct DeviceLimits {
  int arch;              // 90 for compute capability 9.0
  int processors;        // SMs
  int64_t shared_bytes;  // of shared memory that a block may ask for
  int cluster_blocks;    // of the largest cluster; 1 if the device has no clusters
};

// The properties of a call that decide which kernel fits.
struct CallSpec {
  int64_t T, B, H, P;
  bool tf32;  // whether float may be multiplied as TF32
  bool backward;
};

// The size of a launch.
struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  int cluster = 1;  // blocks that share their shared memory; above 1 on sm_90 and later only
  bool cooperative =
      false;  // whether all blocks must be on the device at once, since they wait for each other
  int64_t workspace = 0;  // words of memory that they exchange data through, zero before the launch
};

// The kernel of one call: made once, by choose() or choose_step() in launcher.h, and passed on.
struct Plan {
  int candidate;  // its place in the list of candidates of the type (select_kernel.h)
  Grid grid;
  int64_t workspace_words() const { return grid.workspace > 0 ? grid.workspace : 1; }
};

// A sequence of one layer and direction.
template <class S>
struct ForwardArgs : SequenceParams<S> {
  const Acc<S>* gates_x;  // (T, B, 4H)
  const S* bias_ih;       // (4H) or null
  const S* bias_hh;       // (4H) or null
  const S* h0;            // (B, P)
  S* y;                   // (T, B, P) zero where t >= lengths[b]
  S* h_n;                 // (B, P)
  Acc<S>* c_n;            // (B, H)
  S* gates;               // (T, B, 4H) activated, for backward, or null
  Acc<S>* cells;          // (T, B, H) for backward, or null
  S* h;                   // (2, B, P) scratch: one half is read by a step, the other written
  Acc<S>* c;              // (B, H) scratch
  Acc<S>* hidden;         // (B, H) scratch: h before the projection; null without a projection
};

template <class S>
struct BackwardArgs : BackwardParams<S> {
  Acc<S>* dh;  // (2, B, P) scratch: the gradients of h of this step and of the step after
  Acc<S>* dc;  // (B, H) scratch
};

// One step of one layer and direction, in place on resident state.
template <class S>
struct InferenceStepArgs {
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

// Why the slots of a batch are invalid.
enum class SlotError : uint32_t { none, no_such_slot, twice };

}  // namespace cuda
}  // namespace stateful_lstm
