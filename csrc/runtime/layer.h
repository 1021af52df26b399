// One layer in one direction over a whole sequence, on all threads.
#pragma once
#include <vector>

#include "params.h"

namespace stateful_lstm {

// may_be_in_place: a short call may read the weights in place. It then adds in another order.
template <class S>
void run_forward(const ForwardParams<S>& p, bool may_be_in_place);
// A stack of layers over whole sequences: the x of a layer is the y of the layer below. Where one layer alone
// would leave threads idle, the layers run side by side, each some steps behind the layer below.
template <class S>
void run_layers(const std::vector<ForwardParams<S>>& layers);
template <class S>
void run_backward(const BackwardParams<S>& p);
// Outputs for the gradients of weight_ih (4H, I), weight_hh (4H, P) and either bias (4H).
template <class S>
struct WeightGradients {
  void* to[3];              // null: not computed. Type S if `last`, otherwise Acc<S>
  const Acc<S>* before[3];  // sums of other steps, added to these if `adds`
  bool adds, last;
};
// All of backward: the recurrence, then the gradients that are parallel over time. Callers leave the outputs
// for the gradients of gates and weights unset.
template <class S>
void run_all_gradients(BackwardParams<S> p, GradientParams<S> g, const WeightGradients<S>& weights);
// Recomputes the gates of a sequence after its forward pass.
template <class S>
void run_recompute_gates(const RecomputeParams<S>& p);
// Converts n sums to type S.
template <class S>
void round_sums(S* to, const Acc<S>* from, int64_t n);

}  // namespace stateful_lstm
