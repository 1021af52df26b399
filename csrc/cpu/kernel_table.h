// The kernel table of one instruction set.
#pragma once
#include "cpu/backward.h"
#include "cpu/forward.h"
#include "cpu/recompute_gates.h"
#include "cpu/step.h"
#include "cpu/step_amx.h"
#include "cpu/weight_gradients.h"

namespace stateful_lstm::cpu::LSTM_ISA {

template <class S, class Params, auto weights>
Packing<S, Params> packing() {
  return {[](const Params& a) { return weights(a).size(); },
          [](const Params& a, Acc<S>* pack, int64_t member, int64_t members) {
            weights(a).pack(reinterpret_cast<Factor<S>*>(pack), member, members);
          }};
}

template <class S>
Kernels<S> table() {
  Kernels<S> k;
  k.lanes = kLanes<Acc<S>>;
  k.paired = kPaired<S>;
  k.tiled = kTiles<S>;
  k.forward_weights_are = forward_weights_are<S>;
  k.backward_weights_are = backward_weights_are<S>;
  k.forward_weights = packing<S, ForwardParams<S>, forward_weights<S>>();
  k.recurrent_weights = packing<S, ForwardParams<S>, recurrent_weights<S>>();
  k.backward_weights = packing<S, BackwardParams<S>, backward_weights<S>>();
  k.forward_part = forward_part<S>;
  k.backward_part = backward_part<S>;
  k.gradient_weight_is = gradient_weight_is<S>;
  k.gradient_weight = packing<S, GradientParams<S>, gradient_weight<S>>();
  k.tile_rows = kGradientRows<S>;
  k.gradient_scratch_size = kGradientScratch<S>;
  k.gradient_panels = [](const GradientParams<S>& a) { return RowPanels<S>{a}.count(); };
  k.gradient_panel_size = [](const GradientParams<S>& a) { return RowPanels<S>{a}.size(); };
  k.gradient_pack = gradient_pack<S>;
  k.gradient_weights = gradient_weights<S>;
  k.gradient_inputs = gradient_inputs<S>;
  k.recompute_weights = packing<S, RecomputeParams<S>, recompute_weights<S>>();
  k.recompute_scratch_size = recompute_scratch_size<S>;
  k.recompute_gates = recompute_gates<S>;
  k.round = store_rows<S>;
  k.step_x_sums = step_x_sums<S>;
  k.step_inputs = step_inputs<S>;
  k.step_units = step_units<S>;
  k.step_project = step_project<S>;
  return k;
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
