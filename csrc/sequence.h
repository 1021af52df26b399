// One layer in one direction over a whole sequence, on all threads.
#pragma once
#include "params.h"

namespace stateful_lstm {

// may_be_in_place: a short call may read the weights where they lie, and then adds up in another order.
template <class S>
void run_forward(const ForwardParams<S>& p, bool may_be_in_place);
template <class S>
void run_backward(const BackwardParams<S>& p);
// What is parallel over time, after that.
template <class S>
void run_gradients(const GradientParams<S>& p);
// n sums as numbers of type S.
template <class S>
void round_sums(S* to, const Acc<S>* from, int64_t n);

}  // namespace stateful_lstm
