// The operators on CUDA: checks of arguments, memory from torch, and calls of cuda/launcher.h on the current stream.
// Compiled only together with the kernels.
//
// Nothing here waits for the device, and all memory comes from torch's allocator, so that a CUDA graph can hold a call.
// The kernels check values that the host cannot read without waiting: lengths and slots.
//
// For the emulator (tests/cuda/test_cuda_binding.py) the same file registers the operators under another name, on CPU
// tensors.
#include "bindings/operators.h"

#include <torch/csrc/stable/accelerator.h>

#include <array>

#include "cuda/launcher.h"

#if !defined(STATEFUL_LSTM_EMULATOR)
#include <dlfcn.h>
#endif

namespace stateful_lstm {

template <>
constexpr ScalarType kType<cuda::Half> = ScalarType::Half;
template <>
constexpr ScalarType kType<cuda::Bfloat16> = ScalarType::BFloat16;
template <>
constexpr Dtype kDtype<cuda::Half> = Dtype::float16;
template <>
constexpr Dtype kDtype<cuda::Bfloat16> = Dtype::bfloat16;

namespace {

// The 16-bit types are incomplete here, so sizeof does not work on them.
template <class S>
constexpr int64_t kBytes = sizeof(S);
template <>
constexpr int64_t kBytes<cuda::Half> = 2;
template <>
constexpr int64_t kBytes<cuda::Bfloat16> = 2;
template <class S>
constexpr bool kNarrow = kBytes<S> < kBytes<Acc<S>>;
// The n-th element of a dense tensor.
template <class S>
S* element(const Tensor& x, int64_t n) {
  return reinterpret_cast<S*>(mutable_data<char>(x) + n * kBytes<S>);
}

template <class T>
struct Type {
  using type = T;
};
// Calls f with the C++ type that the dtype names.
template <class F>
auto by_cuda_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(Type<float>{});
    case ScalarType::Double:
      return f(Type<double>{});
    case ScalarType::Half:
      return f(Type<cuda::Half>{});
    case ScalarType::BFloat16:
      return f(Type<cuda::Bfloat16>{});
    default:
      STD_TORCH_CHECK(false, "weight_hh must be float32, float64, float16 or bfloat16, got dtype ",
                      "code ", int(dtype));
  }
}

#if defined(STATEFUL_LSTM_EMULATOR)
struct On {  // every launch runs its threads in another order
  explicit On(const Device&) {}
  cuda::Stream stream() const {
    static uint64_t seed = 0;
    cuda::Stream options;
    options.seed = ++seed;
    return options;
  }
  cuda::DeviceLimits limits = cuda::limits_of(0);
};
#else
// torch's current stream. The function is looked up at run time, since a torch built without CUDA lacks it and must
// still load this library.
CUstream_st* current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const auto get = [] {
    void* torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Get>(torch ? dlsym(torch, "aoti_torch_get_current_cuda_stream")
                                       : nullptr);
  }();
  STD_TORCH_CHECK(get != nullptr, "this torch has no CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == 0, "torch has no current stream for device ", device);
  return static_cast<CUstream_st*>(stream);
}
// Makes a device the current one for its lifetime.
struct On {
  explicit On(const Device& where)
      : guard(where.index), index(where.index), limits(cuda::limits_of(where.index)) {}
  cuda::Stream stream() const { return current_stream(index); }
  torch::stable::accelerator::DeviceGuard guard;
  int32_t index;
  cuda::DeviceLimits limits;
};
#endif

// Calls f with the C++ type of x's dtype, x's device, which is the current one meanwhile, and its checked inputs.
template <class F>
auto on_device_of(const Tensor& x, const F& f) {
  return by_cuda_dtype(x.scalar_type(), [&](auto type) {
    const Device where = device_of(x);
    const On on(where);
    Inputs in(where);
    return f(type, where, on, in);
  });
}

Tensor mm(const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(a), torch::stable::detail::from(b)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}
// The product of 16-bit numbers, in float.
Tensor wide_mm(const Tensor& a, const Tensor& b) {
  if (a.is_cpu())
    return mm(torch::stable::to(a, ScalarType::Float), torch::stable::to(b, ScalarType::Float));
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(ScalarType::Float)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "dtype", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The tensor in the dtype of sums.
template <class S>
Tensor as_sums(const Tensor& x) {
  return kNarrow<S> ? torch::stable::to(x, kType<Acc<S>>) : torch::stable::clone(x);
}

template <class S>
StateSizes sizes_of_state(const Inputs& in, const Tensor& h, const Tensor& c) {
  StateSizes sizes;
  S* h_numbers;
  Acc<S>* c_numbers;
  fill_state<S>(in.check, sizes, h_numbers, c_numbers, view_of(h), view_of(c));
  return sizes;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(
    Tensor x, Tensor weight_ih, Tensor weight_hh, OptTensor bias_ih, OptTensor bias_hh,
    OptTensor weight_hr, Tensor h0, Tensor c0, OptTensor reset_mask, OptTensor lengths,
    OptTensor recurrent_mask, bool reverse, int64_t save, bool, bool tf32) {
  check_save(save);
  return on_device_of(weight_hh, [&](auto type, const Device& where, const On& on, Inputs& in) {
    using S = typename decltype(type)::type;
    using A = Acc<S>;
    // A library product reads x and weight_ih, with any strides.
    const LayerViews views = {
        sequence_views(in, weight_hh, weight_hr, c0, reset_mask, lengths, recurrent_mask),
        view_of(x),
        view_of(weight_ih),
        in.view(bias_ih),
        in.view(bias_hh),
        in.view(h0)};
    check_forward(in.check, views);
    cuda::ForwardArgs<S> p = {};
    p.T = x.size(0);
    p.B = x.size(1);
    const int64_t I = x.size(2);
    fill_sequence<S>(in.check, p, views, reverse);
    in.check.is<S>(views.x, {p.T, p.B, I}, "x");
    in.check.is<S>(views.weight_ih, {4 * p.H, I}, "weight_ih");
    p.bias_ih = in.get<S>(bias_ih, {4 * p.H}, "bias_ih");
    p.bias_hh = in.get<S>(bias_hh, {4 * p.H}, "bias_hh");
    p.h0 = in.get<S>(h0, {p.B, p.P}, "h0");
    Tensor y = make<S>({p.T, p.B, p.P}, where);
    Tensor gates = make<S>({save == 2 ? p.T : 0, p.B, 4 * p.H}, where);
    Tensor cells = make<A>({save >= 1 ? p.T : 0, p.B, p.H}, where);
    if (p.T == 0 || p.B == 0)
      return std::make_tuple(y, torch::stable::clone(h0), torch::stable::clone(c0), gates, cells);
    Tensor h_n = make<S>({p.B, p.P}, where);
    Tensor c_n = make<A>({p.B, p.H}, where);

    const Tensor rows = torch::stable::reshape(x, {p.T * p.B, I});
    const Tensor columns = torch::stable::transpose(weight_ih, 0, 1);
    const Tensor gates_x = kNarrow<S> ? wide_mm(rows, columns) : mm(rows, columns);
    const Tensor h = make<S>({2, p.B, p.P}, where), c = make<A>({p.B, p.H}, where);
    const Tensor hidden = make<A>({weight_hr ? p.B : 0, p.H}, where);
    const cuda::Plan plan = cuda::choose<S>({p.T, p.B, p.H, p.P, tf32, false}, on.limits);
    const Tensor workspace = make<int32_t>({plan.workspace_words()}, where);
    p.gates_x = data<A>(gates_x);
    p.y = mutable_data<S>(y);
    p.h_n = mutable_data<S>(h_n);
    p.c_n = mutable_data<A>(c_n);
    p.gates = save == 2 ? mutable_data<S>(gates) : nullptr;
    p.cells = save >= 1 ? mutable_data<A>(cells) : nullptr;
    p.h = mutable_data<S>(h);
    p.c = mutable_data<A>(c);
    p.hidden = weight_hr ? mutable_data<A>(hidden) : nullptr;
    cuda::forward(p, plan, mutable_data<uint32_t>(workspace), on.stream());
    return std::make_tuple(y, h_n, c_n, gates, cells);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_backward(
    OptTensor grad_y, OptTensor grad_h_n, OptTensor grad_c_n, Tensor gates, Tensor cells,
    Tensor weight_hh, OptTensor weight_hr, Tensor c0, OptTensor reset_mask, OptTensor lengths,
    OptTensor recurrent_mask, bool reverse, bool tf32) {
  return on_device_of(weight_hh, [&](auto type, const Device& where, const On& on, Inputs& in) {
    using S = typename decltype(type)::type;
    using A = Acc<S>;
    cuda::BackwardArgs<S> p = {};
    const SequenceViews views =
        sequence_views(in, weight_hh, weight_hr, c0, reset_mask, lengths, recurrent_mask);
    check_backward(in.check, view_of(gates), views.weight_hh);
    p.T = gates.size(0);
    p.B = gates.size(1);
    fill_sequence<S>(in.check, p, views, reverse);
    p.grad_y = in.get<S>(grad_y, {p.T, p.B, p.P}, "grad_y");
    p.grad_h_n = in.get<S>(grad_h_n, {p.B, p.P}, "grad_h_n");
    p.grad_c_n = in.get<A>(grad_c_n, {p.B, p.H}, "grad_c_n");
    p.gates = in.get<S>(gates, {p.T, p.B, 4 * p.H}, "gates");
    p.cells = in.get<A>(cells, {p.T, p.B, p.H}, "cells");
    Tensor grad_gates = make<A>({p.T, p.B, 4 * p.H}, where);
    Tensor grad_hidden = make<A>({weight_hr ? p.T : 0, p.B, p.P}, where);
    Tensor grad_h0 = make<A>({p.B, p.P}, where), grad_c0 = make<A>({p.B, p.H}, where);
    if (p.T == 0 || p.B == 0) {
      grad_h0 = grad_h_n ? as_sums<S>(*grad_h_n) : torch::stable::zero_(grad_h0);
      grad_c0 = grad_c_n ? torch::stable::clone(*grad_c_n) : torch::stable::zero_(grad_c0);
      return std::make_tuple(grad_gates, grad_h0, grad_c0, grad_hidden);
    }
    const Tensor dh = make<A>({2, p.B, p.P}, where), dc = make<A>({p.B, p.H}, where);
    const cuda::Plan plan = cuda::choose<S>({p.T, p.B, p.H, p.P, tf32, true}, on.limits);
    const Tensor workspace = make<int32_t>({plan.workspace_words()}, where);
    p.grad_gates = mutable_data<A>(grad_gates);
    p.grad_h0 = mutable_data<A>(grad_h0);
    p.grad_c0 = mutable_data<A>(grad_c0);
    p.grad_hidden = weight_hr ? mutable_data<A>(grad_hidden) : nullptr;
    p.dh = mutable_data<A>(dh);
    p.dc = mutable_data<A>(dc);
    cuda::backward(p, plan, mutable_data<uint32_t>(workspace), on.stream());
    return std::make_tuple(grad_gates, grad_h0, grad_c0, grad_hidden);
  });
}

// The slot of each row, checked on the device; no tensor: row b is slot b.
struct Slots {
  std::optional<Tensor> rows;
  const int64_t* get() const { return rows ? data<int64_t>(*rows) : nullptr; }
};
Slots find_slots(Inputs& in, const OptTensor& indices, int64_t B, int64_t slots,
                 const Device& where, const On& on) {
  if (!indices.has_value()) {
    STD_TORCH_CHECK(B == slots, "a batch of ", B, " rows does not fit a state of ", slots,
                    " slots without state_indices");
    return {};
  }
  const Tensor rows = make<int64_t>({B}, where), taken = make<int32_t>({slots}, where);
  uint32_t* error = cuda::error_word(where.index);
  auto* to = mutable_data<int64_t>(rows);
  auto* scratch = mutable_data<int32_t>(taken);
  if (indices->scalar_type() == ScalarType::Int)
    cuda::resolve_slots(in.get<int32_t>(indices, {B}, "state_indices"), B, slots, to, scratch,
                        error, on.stream());
  else
    cuda::resolve_slots(in.get<int64_t>(indices, {B}, "state_indices"), B, slots, to, scratch,
                        error, on.stream());
  return {rows};
}

// T = 1 for the whole stack, in place on the state.
std::tuple<Tensor, Tensor, Tensor> lstm_step_(Tensor x, std::vector<Tensor> weights, Tensor h,
                                              Tensor c, OptTensor state_indices,
                                              OptTensor reset_mask, OptTensor lengths, bool bias,
                                              bool bidirectional, bool tf32) {
  refuse_in_backward_pass();
  return on_device_of(h, [&](auto type, const Device& where, const On& on, Inputs& in) {
    using S = typename decltype(type)::type;
    using A = Acc<S>;
    const StateSizes s = sizes_of_state<S>(in, h, c);
    check_sequence(in.check, view_of(x));
    STD_TORCH_CHECK(x.size(0) == 1, "on CUDA this takes one step, got ", x.size(0));
    STD_TORCH_CHECK(!lengths.has_value(), "on CUDA a single step takes no lengths");
    const int64_t B = x.size(1), I = x.size(2), D = bidirectional ? 2 : 1, width = D * s.P;
    const bool projection = s.P != s.H;
    const int64_t each = 2 + (bias ? 2 : 0) + (projection ? 1 : 0);
    STD_TORCH_CHECK(s.LD > 0 && s.LD % D == 0 && int64_t(weights.size()) == s.LD * each,
                    "the number of weights, ", weights.size(), ", does not fit ", s.LD,
                    " states of layers and directions");
    if (overlap(x, h) || overlap(x, c)) x = torch::stable::clone(x);
    cuda::InferenceStepArgs<S> p = {};
    p.B = B;
    p.H = s.H;
    p.P = s.P;
    p.slots = s.slots;
    p.x = in.get<S>(x, {1, B, I}, "x");
    p.reset = in.get<bool>(reset_mask, {1, B}, "reset_mask");
    std::vector<cuda::InferenceStepArgs<S>> steps(s.LD, p);
    for (int64_t k = 0; k < s.LD; ++k) {
      const Tensor* w = &weights[k * each];
      cuda::InferenceStepArgs<S>& step = steps[k];
      step.I = k < D ? I : width;
      step.weight_ih = in.get<S>(w[0], {4 * s.H, step.I}, "weight_ih");
      step.weight_hh = in.get<S>(w[1], {4 * s.H, s.P}, "weight_hh");
      step.bias_ih = bias ? in.get<S>(w[2], {4 * s.H}, "bias_ih") : nullptr;
      step.bias_hh = bias ? in.get<S>(w[3], {4 * s.H}, "bias_hh") : nullptr;
      step.weight_hr = projection ? in.get<S>(w[each - 1], {s.P, s.H}, "weight_hr") : nullptr;
    }
    const Slots slots = find_slots(in, state_indices, B, s.slots, where, on);
    const Tensor y = make<S>({1, B, width}, where), between = make<S>({2, B, width}, where);
    const Tensor h_n = make<S>({s.LD, B, s.P}, where), c_n = make<S>({s.LD, B, s.H}, where);
    const Tensor hidden = make<A>({projection ? B : 0, s.H}, where);
    const cuda::Plan plan = cuda::choose_step<S>({1, B, s.H, s.P, tf32, false}, on.limits);
    for (int64_t k = 0; k < s.LD; ++k) {
      const int64_t layer = k / D, direction = k % D;
      const bool top = layer == s.LD / D - 1;
      cuda::InferenceStepArgs<S>& step = steps[k];
      if (layer > 0) step.x = element<S>(between, (layer - 1) % 2 * B * width);
      step.x_stride = step.I;
      step.y = top ? element<S>(y, direction * s.P)
                   : element<S>(between, layer % 2 * B * width + direction * s.P);
      step.y_stride = width;
      step.from_zero = direction == 1;
      step.rows = slots.get();
      step.h = element<S>(h, k * s.slots * s.P);
      step.c = element<A>(c, k * s.slots * s.H);
      step.h_n = element<S>(h_n, k * B * s.P);
      step.c_n = element<S>(c_n, k * B * s.H);
      step.hidden = projection ? mutable_data<A>(hidden) : nullptr;
      cuda::inference_step(step, plan, on.stream());
    }
    return std::make_tuple(y, h_n, c_n);
  });
}

std::tuple<Tensor, Tensor> state_gather(Tensor h, Tensor c, OptTensor state_indices) {
  refuse_in_backward_pass();
  return on_device_of(h, [&](auto type, const Device& where, const On& on, Inputs& in) {
    using S = typename decltype(type)::type;
    using A = Acc<S>;
    const StateSizes s = sizes_of_state<S>(in, h, c);
    const int64_t B = state_indices ? state_indices->numel() : s.slots;
    const Slots slots = find_slots(in, state_indices, B, s.slots, where, on);
    const Tensor h0 = make<S>({s.LD, B, s.P}, where), c0 = make<A>({s.LD, B, s.H}, where);
    cuda::gather(h0.mutable_data_ptr(), h.const_data_ptr(), kBytes<S>, slots.get(), s.LD, B,
                 s.slots, s.P, on.stream());
    cuda::gather(c0.mutable_data_ptr(), c.const_data_ptr(), kBytes<A>, slots.get(), s.LD, B,
                 s.slots, s.H, on.stream());
    return std::make_tuple(h0, c0);
  });
}

// Writes to the state on the caller's request, also inside a backward pass.
void state_write_(Tensor h, Tensor c, OptTensor state_indices, Tensor h_n, Tensor c_n) {
  on_device_of(h, [&](auto type, const Device& where, const On& on, Inputs& in) {
    using S = typename decltype(type)::type;
    using A = Acc<S>;
    const StateSizes s = sizes_of_state<S>(in, h, c);
    const int64_t B = state_indices ? state_indices->numel() : s.slots;
    const S* new_h = in.get<S>(h_n, {s.LD, B, s.P}, "h_n");
    const A* new_c = in.get<A>(c_n, {s.LD, B, s.H}, "c_n");
    const Slots slots = find_slots(in, state_indices, B, s.slots, where, on);
    cuda::scatter(h.mutable_data_ptr(), new_h, kBytes<S>, slots.get(), s.LD, B, s.slots, s.P,
                  on.stream());
    cuda::scatter(c.mutable_data_ptr(), new_c, kBytes<A>, slots.get(), s.LD, B, s.slots, s.H,
                  on.stream());
  });
}

// Writes the final state of a call.
void state_scatter_(Tensor h, Tensor c, OptTensor state_indices, Tensor h_n, Tensor c_n) {
  refuse_in_backward_pass();
  state_write_(h, c, state_indices, h_n, c_n);
}

// The error in slots that kernels have reported since the last call, a cuda::SlotError. It waits for nothing. The
// exchange is atomic, since a kernel may write and several threads may ask at the same time.
int64_t slot_error(int64_t device) {
  // The first call allocates memory, which must initialize CUDA on this device and on no other.
  const On on({aoti_torch_device_type_cuda(), static_cast<int32_t>(device)});
  return __atomic_exchange_n(cuda::error_word(static_cast<int>(device)), 0u, __ATOMIC_RELAXED);
}

std::string built_for() { return cuda::built_for(); }

// The kernel of a call on a device, which need not be present.
std::string plan(int64_t T, int64_t B, int64_t H, int64_t P, int64_t dtype, bool tf32,
                 bool backward, int64_t arch, int64_t processors, int64_t shared_bytes,
                 int64_t cluster_blocks) {
  const cuda::DeviceLimits on = {int(arch), int(processors), shared_bytes, int(cluster_blocks)};
  return by_cuda_dtype(static_cast<ScalarType>(dtype), [&](auto type) {
    return cuda::explain<typename decltype(type)::type>({T, B, H, P, tf32, backward}, on);
  });
}
// The limits of a present device: architecture, SMs, bytes of shared memory a block, blocks of a cluster.
std::tuple<int64_t, int64_t, int64_t, int64_t> device(int64_t index) {
  const cuda::DeviceLimits found = cuda::limits_of(static_cast<int>(index));
  return {found.arch, found.processors, found.shared_bytes, found.cluster_blocks};
}

#if defined(STATEFUL_LSTM_EMULATOR)
void emulate(int64_t arch, int64_t processors, int64_t shared_bytes, int64_t cluster_blocks) {
  cuda::emulated_limits = {int(arch), int(processors), shared_bytes, int(cluster_blocks)};
}
// The numbers of plans made and of plans explained since the process started.
std::tuple<int64_t, int64_t> plan_counts() { return {cuda::plans_made, cuda::plans_explained}; }
#define LSTM_LIBRARY stateful_lstm_emulated
#define LSTM_KEY CPU
#else
#define LSTM_LIBRARY stateful_lstm
#define LSTM_KEY CUDA
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(LSTM_LIBRARY, m) {
#if defined(STATEFUL_LSTM_EMULATOR)
  m.def(kForward);
  m.def(kBackward);
  m.def(kStep);
  m.def(kGather);
  m.def(kScatter);
  m.def(kWrite);
  m.def("emulate(int arch, int processors, int shared_bytes, int cluster_blocks) -> ()");
  m.def("plan_counts() -> (int, int)");
#endif
  m.def("cuda_slot_error(int device) -> int");
  m.def("cuda_built_for() -> str");
  m.def("cuda_device(int index) -> (int, int, int, int)");
  m.def(
      "cuda_plan(int T, int B, int H, int P, int dtype, bool tf32, bool backward, int arch, "
      "int processors, int shared_bytes, int cluster_blocks) -> str");
}
STABLE_TORCH_LIBRARY_IMPL(LSTM_LIBRARY, LSTM_KEY, m) {
  m.impl("lstm_forward", TORCH_BOX(&lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&lstm_backward));
  m.impl("lstm_step_", TORCH_BOX(&lstm_step_));
  m.impl("state_gather", TORCH_BOX(&state_gather));
  m.impl("state_scatter_", TORCH_BOX(&state_scatter_));
  m.impl("state_write_", TORCH_BOX(&state_write_));
}
STABLE_TORCH_LIBRARY_IMPL(LSTM_LIBRARY, CompositeExplicitAutograd, m) {
  m.impl("cuda_slot_error", TORCH_BOX(&slot_error));
  m.impl("cuda_built_for", TORCH_BOX(&built_for));
  m.impl("cuda_device", TORCH_BOX(&device));
  m.impl("cuda_plan", TORCH_BOX(&plan));
#if defined(STATEFUL_LSTM_EMULATOR)
  m.impl("emulate", TORCH_BOX(&emulate));
  m.impl("plan_counts", TORCH_BOX(&plan_counts));
#endif
}

}  // namespace
}  // namespace stateful_lstm
