// The table of one instruction set's kernels. Included last by isa_*.cpp.
template <class S>
Kernels<S> table() {
  Kernels<S> k;
  k.name = kName;
  k.lanes = kLanes<Acc<S>>;
  k.forward_pack_size = forward_pack_size<S>;
  k.forward_pack = forward_pack<S>;
  k.forward_rows = forward_rows<S>;
  k.backward_pack_size = backward_pack_size<S>;
  k.backward_pack = backward_pack<S>;
  k.backward_rows = backward_rows<S>;
  k.step_units = step_units<S>;
  k.step_project = step_project<S>;
  k.step_commit = step_commit<S>;
  return k;
}
template Kernels<float> table<float>();
template Kernels<double> table<double>();
template Kernels<bfloat16> table<bfloat16>();
