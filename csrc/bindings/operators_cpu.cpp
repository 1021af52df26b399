// The operators on the CPU: from torch's tensors to the structs that the kernels take, and back.
//
// They use LibTorch's stable ABI, so one build serves many versions of torch and Python. Shapes and meanings of the
// arguments: params.h and stateful_lstm/backend/operators.py. The checks here are the last line of defence; Python
// raises kinder errors first.
#include "bindings/operators.h"

#include "cpu/kernels.h"
#include "runtime/layer.h"
#include "runtime/scratch_memory.h"

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

// A new tensor that probably goes before the next call or iteration of training. A large one reuses pooled memory: to
// get fresh pages from the system may take as long as the computation.
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

LayerViews layer_views(Inputs& in, const Tensor& x, const Tensor& weight_ih,
                       const Tensor& weight_hh, const OptTensor& bias_ih, const OptTensor& bias_hh,
                       const OptTensor& weight_hr, const Tensor& h0, const Tensor& c0,
                       const OptTensor& reset_mask, const OptTensor& lengths,
                       const OptTensor& recurrent_mask) {
  return {sequence_views(in, weight_hh, weight_hr, c0, reset_mask, lengths, recurrent_mask),
          in.view(x),
          in.view(weight_ih),
          in.view(bias_ih),
          in.view(bias_hh),
          in.view(h0)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    Tensor x, Tensor weight_ih, Tensor weight_hh, OptTensor bias_ih, OptTensor bias_hh,
    OptTensor weight_hr, Tensor h0, Tensor c0, OptTensor reset_mask, OptTensor lengths,
    OptTensor recurrent_mask, bool reverse, int64_t save, bool in_place, bool) {
  check_save(save);
  Inputs in(cpu_device());
  const LayerViews views = layer_views(in, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h0,
                                       c0, reset_mask, lengths, recurrent_mask);
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    ForwardParams<S> p;
    fill_layer<S>(in.check, p, views, reverse);
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_gradients(
    OptTensor grad_y, OptTensor grad_h_n, OptTensor grad_c_n, Tensor gates, Tensor cells, Tensor x,
    Tensor y, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, OptTensor weight_hr,
    OptTensor reset_mask, OptTensor lengths, OptTensor recurrent_mask, bool reverse,
    OptTensor sum_ih, OptTensor sum_hh, OptTensor sum_bias, int64_t wanted) {
  STD_TORCH_CHECK(wanted >= 0 && wanted < 64, "wanted must be 0 to 63, got ", wanted);
  const auto wants = [&](int bit) { return (wanted >> bit & 1) != 0; };
  const bool want_x = wants(0), want_ih = wants(1), want_hh = wants(2), want_bias = wants(3),
             want_h0 = wants(4);
  const bool adds = sum_ih || sum_hh || sum_bias;
  STD_TORCH_CHECK((!want_ih || bool(sum_ih) == adds) && (!want_hh || bool(sum_hh) == adds) &&
                      (!want_bias || bool(sum_bias) == adds),
                  "sums must be given for all gradients that are wanted, or for none");
  Inputs in(cpu_device());
  const GradientViews views = {
      sequence_views(in, weight_hh, weight_hr, c0, reset_mask, lengths, recurrent_mask),
      in.view(grad_y),
      in.view(grad_h_n),
      in.view(grad_c_n),
      in.view(gates),
      in.view(cells),
      in.view(x),
      in.view(y),
      in.view(h0),
      in.view(weight_ih)};
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    BackwardParams<S> p = {};
    GradientParams<S> g = {};
    fill_gradients<S>(in.check, p, g, views, reverse);
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
  Inputs in(cpu_device());
  const LayerViews views = layer_views(in, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h0,
                                       c0, reset_mask, lengths, recurrent_mask);
  return by_dtype(weight_hh, "weight_hh", [&](auto number) {
    using S = decltype(number);
    using A = Acc<S>;
    RecomputeParams<S> p;
    fill_layer<S>(in.check, p, views, reverse);
    p.y = in.get<S>(y, {p.T, p.B, p.P}, "y");
    p.cells = in.get<A>(cells, {p.T, p.B, p.H}, "cells");
    Tensor gates = make_pooled<S>({p.T, p.B, 4 * p.H});
    p.gates = mutable_data<S>(gates);
    run_recompute_gates(p);
    return gates;
  });
}

// A state and the slots of a batch's rows.
template <class S>
struct Slots {
  StateSizes sizes;
  S* h;
  Acc<S>* c;
  int64_t B;
  std::vector<int64_t> rows;

  Slots(Inputs& in, const TensorView& h_view, const TensorView& c_view, const OptTensor& indices) {
    fill_state<S>(in.check, sizes, h, c, h_view, c_view);
    B = indices ? indices->numel() : sizes.slots;
    fill_slots(in.check, rows, in.view(indices), B, sizes.slots);
  }
};

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
    Inputs in(cpu_device());
    const Slots<S> of(in, view_of(h), view_of(c), state_indices);
    const StateSizes& s = of.sizes;
    Tensor h0 = make<S>({s.LD, of.B, s.P});
    Tensor c0 = make<Acc<S>>({s.LD, of.B, s.H});
    gather(mutable_data<S>(h0), of.h, s, of.B, s.P, of.rows);
    gather(mutable_data<Acc<S>>(c0), of.c, s, of.B, s.H, of.rows);
    return std::make_tuple(h0, c0);
  });
}

// Rows that a caller puts into the state: allowed inside a backward pass.
void state_write_(Tensor h, Tensor c, OptTensor state_indices, Tensor h_n, Tensor c_n) {
  by_dtype(h, "h", [&](auto number) {
    using S = decltype(number);
    Inputs in(cpu_device());
    const Slots<S> of(in, view_of_written(h), view_of_written(c), state_indices);
    const StateSizes& s = of.sizes;
    const S* new_h = in.get<S>(h_n, {s.LD, of.B, s.P}, "h_n");
    const auto* new_c = in.get<Acc<S>>(c_n, {s.LD, of.B, s.H}, "c_n");
    scatter(of.h, new_h, s, of.B, s.P, of.rows);
    scatter(of.c, new_c, s, of.B, s.H, of.rows);
  });
}

// The final rows of a call.
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
    Inputs in(cpu_device());
    if (is_allocated(x) && (overlap(x, h) || overlap(x, c))) x = torch::stable::clone(x);
    const StackViews views = {in.view(x),
                              view_of_written(h),
                              view_of_written(c),
                              in.view(state_indices),
                              in.view(reset_mask),
                              in.view(lengths),
                              bias,
                              bidirectional,
                              /*batch_first=*/false};
    StackArguments<S> all;
    fill_stack<S>(in.check, all, views, weights.size(),
                  [&](int64_t k) { return in.view(weights[k]); });
    StackCall<S>& s = all.call;
    const Tensor y = make_pooled<S>({s.T, s.B, s.D * s.P});
    const Tensor h_n = make<S>({s.L * s.D, s.B, s.P}), c_n = make<S>({s.L * s.D, s.B, s.H});
    s.y_row = s.D * s.P;
    s.y_time = s.B * s.y_row;
    s.y = mutable_data<S>(y);
    s.h_n = mutable_data<S>(h_n);
    s.c_n = mutable_data<S>(c_n);
    run(s);
    return std::make_tuple(y, h_n, c_n);
  });
}

// A copy of the state that a call starts from, any dtype and device. torch.compile cannot look into it, so it cannot
// make the copy again later, when the state has moved on.
Tensor state_copy(Tensor x) {
  refuse_in_backward_pass();
  STD_TORCH_CHECK(!(x.is_cpu() || x.is_cuda()) || is_allocated(x),
                  "x has no memory: its storage was freed");
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
