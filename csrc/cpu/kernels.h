// The CPU kernels as a table of functions, one table per instruction set and parameter type.
//
// Each *_rows function does all T steps for rows [begin, end): rows never wait for each other, so
// the caller hands row ranges to threads with no barrier inside a sequence. Each *_units function
// does a range of blocks of `lanes` hidden units for all rows.
#pragma once
#include <cstddef>

#include "params.h"

namespace stateful_lstm::cpu {

// How a call's weights are laid out for its products: panels, packed apart, in any order.
template <class S>
struct Packing {
  int64_t (*panels)(const SequenceParams<S>&);
  int64_t (*size)(const SequenceParams<S>&);  // elements of Acc<S> in all
  void (*pack)(const SequenceParams<S>&, Acc<S>* pack, int64_t begin, int64_t end);
};

template <class S>
struct Kernels {
  const char* name;  // of the instruction set
  int64_t lanes;     // numbers of type Acc<S> in a vector

  Packing<S> forward_weights, backward_weights;
  void (*forward_rows)(const ForwardParams<S>&, const Acc<S>* pack, int64_t begin, int64_t end);
  void (*backward_rows)(const BackwardParams<S>&, const Acc<S>* pack, int64_t begin, int64_t end);

  void (*step_units)(const StepParams<S>&, int64_t begin, int64_t end);
  void (*step_project)(const StepParams<S>&, int64_t begin, int64_t end);  // range of rows
  void (*step_commit)(const StepParams<S>&);                               // h_n into h
};

// The table for this machine: the widest instruction set it has, or the one that the environment
// variable STATEFUL_LSTM_CPU names ("portable", "avx2"). Throws std::runtime_error when that is
// not to be had here.
template <class S>
const Kernels<S>& kernels();

// Defined by isa_*.cpp.
namespace portable {
template <class S>
Kernels<S> table();
}
namespace avx2 {
template <class S>
Kernels<S> table();
}

}  // namespace stateful_lstm::cpu
