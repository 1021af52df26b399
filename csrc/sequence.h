// One layer in one direction over a whole sequence, on all threads.
#pragma once
#include "params.h"

namespace stateful_lstm {

// in_place: whether a short call may read the weights where they lie, as cpu::Kernels::in_place says.
template <class S>
void run_forward(const ForwardParams<S>& p, bool in_place);
template <class S>
void run_backward(const BackwardParams<S>& p);

}  // namespace stateful_lstm
