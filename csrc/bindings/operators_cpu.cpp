// The operators on the CPU: checks and dispatch. This file, binding_cuda.cpp and binding.h know torch.
//
// Bound through LibTorch's stable ABI, so that one build serves many versions of torch and Python.
// Shapes and meanings of the arguments: params.h and stateful_lstm/backend/operators.py. The checks here are the
// last line of defence; the Python above raises kinder errors first.
#include "bindings/operators.h"

#include <cstring>

#include "runtime/scratch_memory.h"
#include "cpu/kernels.h"
#include "runtime/layer.h"
#include "runtime/stateful_inference.h"

namespace stateful_lstm {
namespace {

// Calls f with a value of the C++ type that the tensor's dtype names.
template <class F>
auto by_dtype(const Tensor& x, const char* name, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(bfloat16{});
    default:
      STD_TORCH_CHECK(false, name, " must be float32, float64 or bfloat16, got dtype code ",
                      int(x.scalar_type()));
  }
}

const int64_t* read_lengths(Inputs& in, const OptTensor& lengths, int64_t B, int64_t T) {
  const int64_t* found = in.get<int64_t>(lengths, {B}, "lengths");
  for (int64_t b = 0; found && b < B; ++b)
    STD_TORCH_CHECK(found[b] >= 0 && found[b] <= T, "lengths[", b, "] is ", found[b],
                    ", expected 0 to ", T);
  return found;
}

// A new tensor that is likely to go before the next call or iteration of training: a large one lies in memory that has
// been used before. To get it anew from the system may take as long as the computing.
template <class T>
Tensor make_pooled(std::initializer_list<int64_t> shape) {
  size_t bytes = sizeof(T);
  for (const int64_t n : shape) bytes *= n;
  if (bytes < Pool::kLeast) return make<T>(shape);
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t k = shape.size() - 1; k > 0; --k) strides[k - 1] = strides[k] * shape.begin()[k];
  auto* block = new Block(Pool::shared().take(bytes));
  return torch::stable::from_blob(
      block->get(), {shape.begin(), shape.size()}, {strides.data(), strides.size()},
      torch::stable::Device(torch::headeronly::DeviceType::CPU), kType<T>, [block](void*) {
        Pool::shared().give(std::move(*block));
        delete block;
      });
}

// All that goes into a layer, checked.
template <class S>
void fill_layer(LayerParams<S>& p, Inputs& in, const Tensor& x, const Tensor& weight_ih,
                const Tensor& weight_hh, const OptTensor& bias_ih, const OptTensor& bias_hh,
                const OptTensor& weight_hr, const Tensor& h0, const Tensor& c0,
                const OptTensor& reset_mask, const OptTensor& lengths,
                const OptTensor& recurrent_mask, bool reverse) {
  p.T = x.size(0);
  p.B = x.size(1);
  p.I = x.size(2);
  fill_sequence<S>(p, in, weight_hh, weight_hr, c0, reset_mask, recurrent_mask, reverse);
  p.lengths = read_lengths(in, lengths, p.B, p.T);
  p.x = in.get<S>(x, {p.T, p.B, p.I}, "x");
  p.weight_ih = in.get<S>(weight_ih, {4 * p.H, p.I}, "weight_ih");
  p.bias_ih = in.get<S>(bias_ih, {4 * p.H}, "bias_ih");
  p.bias_hh = in.get<S>(bias_hh, {4 * p.H}, "bias_hh");
  p.h0 = in.get<S>(h0, {p.B, p.P}, "h0");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    Tensor x, Tensor weight_ih, Tensor weight_hh, OptTensor bias_ih, OptTensor bias_hh,
    OptTensor weight_hr, Tensor h0, Tensor c0, OptTensor reset_mask, OptTensor lengths,
    OptTensor recurrent_mask, bool reverse, int64_t save, bool in_place, bool) {
  check_forward(x, weight_hh, bias_ih, bias_hh, save);
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    Inputs in(cpu_device());
    ForwardParams<S> p;
    fill_layer(p, in, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h0, c0, reset_mask,
               lengths, recurrent_mask, reverse);
    Tensor y = make_pooled<S>({p.T, p.B, p.P});
    Tensor h_n = make<S>({p.B, p.P});
    Tensor c_n = make<A>({p.B, p.H});
    Tensor gates = make_pooled<S>({save == 2 ? p.T : 0, p.B, 4 * p.H});
    Tensor cells = make_pooled<A>({save >= 1 ? p.T : 0, p.B, p.H});
    p.y = mutable_data<S>(y);
    p.h_n = mutable_data<S>(h_n);
    p.c_n = mutable_data<A>(c_n);
    p.gates = save == 2 ? mutable_data<S>(gates) : nullptr;
    p.cells = save >= 1 ? mutable_data<A>(cells) : nullptr;
    run_forward(p, in_place);
    return std::make_tuple(y, h_n, c_n, gates, cells);
  });
}

// Gradients and what forward left, checked, but for where the results go.
template <class S>
BackwardParams<S> backward_params(Inputs& in, const OptTensor& grad_y, const OptTensor& grad_h_n,
                                  const OptTensor& grad_c_n, const Tensor& gates,
                                  const Tensor& cells, const Tensor& weight_hh,
                                  const OptTensor& weight_hr, const Tensor& c0,
                                  const OptTensor& reset_mask, const OptTensor& lengths,
                                  const OptTensor& recurrent_mask, bool reverse) {
  BackwardParams<S> p = {};
  p.T = gates.size(0);
  p.B = gates.size(1);
  fill_sequence<S>(p, in, weight_hh, weight_hr, c0, reset_mask, recurrent_mask, reverse);
  p.lengths = read_lengths(in, lengths, p.B, p.T);
  p.grad_y = in.get<S>(grad_y, {p.T, p.B, p.P}, "grad_y");
  p.grad_h_n = in.get<S>(grad_h_n, {p.B, p.P}, "grad_h_n");
  p.grad_c_n = in.get<Acc<S>>(grad_c_n, {p.B, p.H}, "grad_c_n");
  p.gates = in.get<S>(gates, {p.T, p.B, 4 * p.H}, "gates");
  p.cells = in.get<Acc<S>>(cells, {p.T, p.B, p.H}, "cells");
  return p;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_backward(
    OptTensor grad_y, OptTensor grad_h_n, OptTensor grad_c_n, Tensor gates, Tensor cells,
    Tensor weight_hh, OptTensor weight_hr, Tensor c0, OptTensor reset_mask, OptTensor lengths,
    OptTensor recurrent_mask, bool reverse, bool) {
  check_backward(gates, weight_hh);
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    Inputs in(cpu_device());
    auto p = backward_params<S>(in, grad_y, grad_h_n, grad_c_n, gates, cells, weight_hh, weight_hr,
                                c0, reset_mask, lengths, recurrent_mask, reverse);
    Tensor grad_gates = make<A>({p.T, p.B, 4 * p.H});
    Tensor grad_h0 = make<A>({p.B, p.P});
    Tensor grad_c0 = make<A>({p.B, p.H});
    Tensor grad_hidden = make<A>({weight_hr ? p.T : 0, p.B, p.P});
    const auto& kernel = cpu::kernels<S>();
    const bool paired = kernel.paired;
    const Buffer<S> narrow(paired ? cpu::gates_size(kernel, p) : 0);
    p.gates_stride = paired ? cpu::gates_stride(kernel, p.H) : 4 * p.H;
    p.grad_gates = paired ? nullptr : mutable_data<A>(grad_gates);
    p.grad_gates_narrow = narrow.get();
    p.grad_h0 = mutable_data<A>(grad_h0);
    p.grad_c0 = mutable_data<A>(grad_c0);
    p.grad_hidden = weight_hr ? mutable_data<A>(grad_hidden) : nullptr;
    run_backward(p);
    for (int64_t row = 0; paired && row < p.T * p.B; ++row) {
      const S* from = narrow.get() + row * p.gates_stride;
      std::transform(from, from + 4 * p.H, mutable_data<A>(grad_gates) + row * 4 * p.H, widened<S>);
    }
    return std::make_tuple(grad_gates, grad_h0, grad_c0, grad_hidden);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_gradients(
    OptTensor grad_y, OptTensor grad_h_n, OptTensor grad_c_n, Tensor gates, Tensor cells, Tensor x,
    Tensor y, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, OptTensor weight_hr,
    OptTensor reset_mask, OptTensor lengths, OptTensor recurrent_mask, bool reverse,
    OptTensor sum_ih, OptTensor sum_hh, OptTensor sum_bias, int64_t wanted) {
  check_backward(gates, weight_hh);
  STD_TORCH_CHECK(is_sequence(x), "x must be (T, B, I), I 1 or more, got ", shape_text(x.sizes()));
  STD_TORCH_CHECK(wanted >= 0 && wanted < 64, "wanted must be 0 to 63, got ", wanted);
  const auto wants = [&](int bit) { return (wanted >> bit & 1) != 0; };
  const bool want_x = wants(0), want_ih = wants(1), want_hh = wants(2), want_bias = wants(3),
             want_h0 = wants(4);
  const bool adds = sum_ih || sum_hh || sum_bias;
  STD_TORCH_CHECK((!want_ih || bool(sum_ih) == adds) && (!want_hh || bool(sum_hh) == adds) &&
                      (!want_bias || bool(sum_bias) == adds),
                  "there are sums for all gradients that are wanted, or for none");
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    Inputs in(cpu_device());
    auto p = backward_params<S>(in, grad_y, grad_h_n, grad_c_n, gates, cells, weight_hh, weight_hr,
                                c0, reset_mask, lengths, recurrent_mask, reverse);
    GradientParams<S> g = {};
    static_cast<SequenceParams<S>&>(g) = p;
    g.I = x.size(2);
    g.x = in.get<S>(x, {p.T, p.B, g.I}, "x");
    g.y = in.get<S>(y, {p.T, p.B, p.P}, "y");
    g.h0 = in.get<S>(h0, {p.B, p.P}, "h0");
    g.weight_ih = in.get<S>(weight_ih, {4 * p.H, g.I}, "weight_ih");
    Tensor grad_x = make<S>({want_x ? p.T : 0, p.B, g.I});
    Tensor grad_h0 = make<A>({want_h0 ? p.B : 0, p.P});
    Tensor grad_c0 = make<A>({p.B, p.H});
    Tensor grad_hidden = make<A>({weight_hr ? p.T : 0, p.B, p.P});
    g.grad_x = want_x ? mutable_data<S>(grad_x) : nullptr;
    WeightGradients<S> weights = {};
    weights.adds = adds;
    weights.last = wants(5);
    const auto result = [&](std::initializer_list<int64_t> shape) {
      return weights.last ? make_pooled<S>(shape) : make_pooled<A>(shape);
    };
    Tensor grad_ih = result({want_ih ? 4 * p.H : 0, g.I});
    Tensor grad_hh = result({want_hh ? 4 * p.H : 0, p.P});
    Tensor grad_bias = result({want_bias ? 4 * p.H : 0});
    weights.to[0] = want_ih ? grad_ih.mutable_data_ptr() : nullptr;
    weights.to[1] = want_hh ? grad_hh.mutable_data_ptr() : nullptr;
    weights.to[2] = want_bias ? grad_bias.mutable_data_ptr() : nullptr;
    weights.before[0] = in.get<A>(sum_ih, {4 * p.H, g.I}, "sum_ih");
    weights.before[1] = in.get<A>(sum_hh, {4 * p.H, p.P}, "sum_hh");
    weights.before[2] = in.get<A>(sum_bias, {4 * p.H}, "sum_bias");
    p.grad_h0 = want_h0 ? mutable_data<A>(grad_h0) : nullptr;
    p.grad_c0 = mutable_data<A>(grad_c0);
    p.grad_hidden = weight_hr ? mutable_data<A>(grad_hidden) : nullptr;
    run_all_gradients(p, g, weights);
    return std::make_tuple(grad_x, grad_ih, grad_hh, grad_bias, grad_h0, grad_c0, grad_hidden);
  });
}

Tensor lstm_gates(Tensor x, Tensor weight_ih, Tensor weight_hh, OptTensor bias_ih,
                  OptTensor bias_hh, OptTensor weight_hr, Tensor h0, Tensor c0,
                  OptTensor reset_mask, OptTensor lengths, OptTensor recurrent_mask, bool reverse,
                  Tensor y, Tensor cells) {
  check_forward(x, weight_hh, bias_ih, bias_hh, 0);
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    Inputs in(cpu_device());
    RecomputeParams<S> p;
    fill_layer(p, in, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h0, c0, reset_mask,
               lengths, recurrent_mask, reverse);
    p.y = in.get<S>(y, {p.T, p.B, p.P}, "y");
    p.cells = in.get<A>(cells, {p.T, p.B, p.H}, "cells");
    Tensor gates = make_pooled<S>({p.T, p.B, 4 * p.H});
    p.gates = mutable_data<S>(gates);
    run_recompute_gates(p);
    return gates;
  });
}

// The slots of a batch, checked: -1 or a slot of the state, none twice.
std::vector<int64_t> read_slots(const OptTensor& indices, int64_t B, int64_t slots) {
  std::vector<int64_t> rows;
  if (!indices.has_value()) {
    STD_TORCH_CHECK(B == slots, "a batch of ", B, " rows does not fit a state of ", slots,
                    " slots without state_indices");
    return rows;
  }
  int64_t wrong;
  const Tensor dense = torch::stable::contiguous(*indices);
  if (dense.scalar_type() == ScalarType::Int) {
    check<int32_t>(dense, {B}, "state_indices", cpu_device());
    wrong = misplaced_row(data<int32_t>(dense), 1, B, slots, rows);
  } else {
    check<int64_t>(dense, {B}, "state_indices", cpu_device());
    wrong = misplaced_row(data<int64_t>(dense), 1, B, slots, rows);
  }
  if (wrong >= 0) {
    const int64_t slot = rows[wrong];
    STD_TORCH_CHECK(slot < -1 || slot >= slots, "state_indices names slot ", slot, " twice");
    STD_TORCH_CHECK(false, "state_indices[", wrong, "] is ", slot, ", expected -1 to ", slots - 1);
  }
  return rows;
}

// Rows of `from` (LD, B, n) <-> slots of a state (LD, slots, n).
template <class X>
void gather(X* to, const X* from, const StateSizes& s, int64_t B, int64_t n,
            const std::vector<int64_t>& rows) {
  for (int64_t k = 0; k < s.LD; ++k)
    for (int64_t b = 0; b < B; ++b) {
      const int64_t slot = rows.empty() ? b : rows[b];
      X* out = to + (k * B + b) * n;
      if (slot < 0)
        std::fill(out, out + n, X{});
      else
        std::copy_n(from + (k * s.slots + slot) * n, n, out);
    }
}
template <class X>
void scatter(X* to, const X* from, const StateSizes& s, int64_t B, int64_t n,
             const std::vector<int64_t>& rows) {
  for (int64_t k = 0; k < s.LD; ++k)
    for (int64_t b = 0; b < B; ++b) {
      const int64_t slot = rows.empty() ? b : rows[b];
      if (slot >= 0) std::copy_n(from + (k * B + b) * n, n, to + (k * s.slots + slot) * n);
    }
}

std::tuple<Tensor, Tensor> state_gather(Tensor h, Tensor c, OptTensor state_indices) {
  refuse_in_backward_pass();
  return by_dtype(h, "h", [&](auto number) {
    using S = decltype(number);
    const StateSizes s = check_state<S>(h, c, cpu_device());
    const int64_t B = state_indices ? state_indices->numel() : s.slots;
    const std::vector<int64_t> rows = read_slots(state_indices, B, s.slots);
    Tensor h0 = make<S>({s.LD, B, s.P});
    Tensor c0 = make<Acc<S>>({s.LD, B, s.H});
    gather(mutable_data<S>(h0), data<S>(h), s, B, s.P, rows);
    gather(mutable_data<Acc<S>>(c0), data<Acc<S>>(c), s, B, s.H, rows);
    return std::make_tuple(h0, c0);
  });
}

// What a caller puts into the state, also inside a backward pass.
void state_write_(Tensor h, Tensor c, OptTensor state_indices, Tensor h_n, Tensor c_n) {
  by_dtype(h, "h", [&](auto number) {
    using S = decltype(number);
    const StateSizes s = check_state<S>(h, c, cpu_device());
    const int64_t B = state_indices ? state_indices->numel() : s.slots;
    const std::vector<int64_t> rows = read_slots(state_indices, B, s.slots);
    Inputs in(cpu_device());
    const S* new_h = in.get<S>(h_n, {s.LD, B, s.P}, "h_n");
    const auto* new_c = in.get<Acc<S>>(c_n, {s.LD, B, s.H}, "c_n");
    scatter(mutable_data<S>(h), new_h, s, B, s.P, rows);
    scatter(mutable_data<Acc<S>>(c), new_c, s, B, s.H, rows);
  });
}

// What a call leaves in the state.
void state_scatter_(Tensor h, Tensor c, OptTensor state_indices, Tensor h_n, Tensor c_n) {
  refuse_in_backward_pass();
  state_write_(h, c, state_indices, h_n, c_n);
}

std::tuple<Tensor, Tensor, Tensor> lstm_step_(Tensor x, std::vector<Tensor> weights, Tensor h,
                                              Tensor c, OptTensor state_indices,
                                              OptTensor reset_mask, OptTensor lengths, bool bias,
                                              bool bidirectional, bool) {
  refuse_in_backward_pass();
  return by_dtype(h, "h", [&](auto number) {
    using S = decltype(number);
    const StateSizes s = check_state<S>(h, c, cpu_device());
    STD_TORCH_CHECK(is_sequence(x), "x must be (T, B, I), I 1 or more, got ",
                    shape_text(x.sizes()));
    const int64_t T = x.size(0), B = x.size(1), I = x.size(2), D = bidirectional ? 2 : 1;
    STD_TORCH_CHECK(T >= 1, "x must have one step at least, got ", T);
    const bool projection = s.P != s.H;
    const int64_t each = 2 + (bias ? 2 : 0) + (projection ? 1 : 0);
    STD_TORCH_CHECK(s.LD > 0 && s.LD % D == 0 && int64_t(weights.size()) == s.LD * each,
                    "the number of weights, ", weights.size(), ", does not fit ", s.LD,
                    " states of layers and directions");
    const std::vector<int64_t> slots = read_slots(state_indices, B, s.slots);
    Inputs in(cpu_device());
    if (overlap(x, h) || overlap(x, c)) x = torch::stable::clone(x);
    StackCall<S> step = {};
    step.T = T;
    step.B = B;
    step.I = I;
    step.H = s.H;
    step.P = s.P;
    step.L = s.LD / D;
    step.D = D;
    step.slots = s.slots;
    step.x = in.get<S>(x, {T, B, I}, "x");
    step.x_row = I;
    step.x_time = B * I;
    step.reset = in.get<bool>(reset_mask, {T, B}, "reset_mask");
    step.reset_row = 1;
    step.reset_time = B;
    step.rows = state_indices ? slots.data() : nullptr;
    step.lengths = read_lengths(in, lengths, B, T);
    for (int64_t k = 0; k < s.LD; ++k) {
      const Tensor* w = &weights[k * each];
      const int64_t width = k < D ? I : D * s.P;
      step.w.push_back({in.get<S>(w[0], {4 * s.H, width}, "weight_ih"),
                        in.get<S>(w[1], {4 * s.H, s.P}, "weight_hh"),
                        bias ? in.get<S>(w[2], {4 * s.H}, "bias_ih") : nullptr,
                        bias ? in.get<S>(w[3], {4 * s.H}, "bias_hh") : nullptr,
                        projection ? in.get<S>(w[each - 1], {s.P, s.H}, "weight_hr") : nullptr});
    }
    const Tensor y = make_pooled<S>({T, B, D * s.P});
    const Tensor h_n = make<S>({s.LD, B, s.P}), c_n = make<S>({s.LD, B, s.H});
    step.y_row = D * s.P;
    step.y_time = B * step.y_row;
    step.h = mutable_data<S>(h);
    step.c = mutable_data<Acc<S>>(c);
    step.y = mutable_data<S>(y);
    step.h_n = mutable_data<S>(h_n);
    step.c_n = mutable_data<S>(c_n);
    run(step);
    return std::make_tuple(y, h_n, c_n);
  });
}

// A copy that torch.compile does not take apart: of what a call starts from, since the state moves on. Any dtype,
// any device.
Tensor state_copy(Tensor x) {
  refuse_in_backward_pass();
  if (x.is_cpu() || x.is_cuda()) check_allocated(x, "x");
  return torch::stable::clone(x);
}

std::string cpu_capability() { return cpu::kernels<float>().name; }
std::string cpu_capabilities() { return cpu::available_names(); }

STABLE_TORCH_LIBRARY(stateful_lstm, m) {
  m.def(kForward);
  m.def(kBackward);
  m.def(kGradients);
  m.def(kGates);
  m.def(kStep);
  m.def(kGather);
  m.def(kScatter);
  m.def(kWrite);
  m.def("state_copy(Tensor x) -> Tensor");
  m.def("cpu_capability() -> str");
  m.def("cpu_capabilities() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(stateful_lstm, CPU, m) {
  m.impl("lstm_forward", TORCH_BOX(&lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&lstm_backward));
  m.impl("lstm_gradients", TORCH_BOX(&lstm_gradients));
  m.impl("lstm_gates", TORCH_BOX(&lstm_gates));
  m.impl("lstm_step_", TORCH_BOX(&lstm_step_));
  m.impl("state_gather", TORCH_BOX(&state_gather));
  m.impl("state_scatter_", TORCH_BOX(&state_scatter_));
  m.impl("state_write_", TORCH_BOX(&state_write_));
}

STABLE_TORCH_LIBRARY_IMPL(stateful_lstm, CompositeExplicitAutograd, m) {
  m.impl("state_copy", TORCH_BOX(&state_copy));
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
  m.impl("cpu_capabilities", TORCH_BOX(&cpu_capabilities));
}

}  // namespace
}  // namespace stateful_lstm
