// One layer in one direction over a whole sequence, on all threads.
#pragma once
#include <vector>

#include "params.h"

namespace stateful_lstm {

// may_be_in_place: a short call may read the weights where they lie, and then adds up in another order.
template <class S>
void run_forward(const ForwardParams<S>& p, bool may_be_in_place);
// Layers one upon the other, whole sequences: a layer's x is the y of the one below. Where one layer alone
// would leave threads idle they run side by side, a layer some steps behind the one below it.
template <class S>
void run_layers(const std::vector<ForwardParams<S>>& layers);
template <class S>
void run_backward(const BackwardParams<S>& p);
// Where the gradients of weight_ih (4H, I), weight_hh (4H, P) and of either bias (4H) go.
template <class S>
struct WeightGradients {
  void* to[3];  // null: not wanted. Numbers of type S if `last`, or else of the type of sums
  const Acc<S>* before[3];  // of other steps, which these are added to if `adds`
  bool adds, last;
};
// All of backward: the recurrence, then what is parallel over time. Callers leave out where the gradients of
// gates and of weights go.
template <class S>
void run_all_gradients(BackwardParams<S> p, GradientParams<S> g, const WeightGradients<S>& weights);
// The gates of a sequence that has been run forward.
template <class S>
void run_recompute_gates(const RecomputeParams<S>& p);
// n sums as numbers of type S.
template <class S>
void round_sums(S* to, const Acc<S>* from, int64_t n);

}  // namespace stateful_lstm
