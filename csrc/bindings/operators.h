// What both bindings share: tensors checked and taken apart, and made. CPU: binding.cpp. CUDA: binding_cuda.cpp.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/backward_pass.h"
#include "params.h"

namespace stateful_lstm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

template <class S>
constexpr ScalarType kType = ScalarType::Undefined;
template <>
constexpr ScalarType kType<float> = ScalarType::Float;
template <>
constexpr ScalarType kType<double> = ScalarType::Double;
template <>
constexpr ScalarType kType<bfloat16> = ScalarType::BFloat16;
template <>
constexpr ScalarType kType<bool> = ScalarType::Bool;
template <>
constexpr ScalarType kType<int64_t> = ScalarType::Long;
template <>
constexpr ScalarType kType<int32_t> = ScalarType::Int;

// What torch.utils.checkpoint and torch.compile, where it saves memory, do: they run forward again in backward.
// Python refuses that (module.py), but has no part in a call that is compiled.
inline void refuse_in_backward_pass() {
  STD_TORCH_CHECK(
      in_backward_pass == nullptr || !in_backward_pass(),
      "a stateful layer was run again inside a backward pass, as torch.utils.checkpoint and "
      "torch.compile's memory budget do: its state has moved on since, so the gradients would be "
      "wrong. To save memory use StatefulLSTM(..., recompute='gates' or 'segments') instead");
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream out;
  out << "(";
  bool first = true;
  for (const int64_t n : sizes) {
    out << (first ? "" : ", ") << n;
    first = false;
  }
  out << ")";
  return out.str();
}

// Where a tensor lies: torch's numbers for a kind of device and for one of them.
struct Device {
  int32_t type, index;
};
inline Device cpu_device() { return {aoti_torch_device_type_cpu(), -1}; }
inline Device device_of(const Tensor& x) {
  return x.is_cpu()
             ? cpu_device()
             : Device{x.is_cuda() ? aoti_torch_device_type_cuda() : -1, x.get_device_index()};
}

// A tensor whose storage was freed, as FSDP frees weights between calls, has a shape but no numbers, and its address
// is its offset in the storage.
inline void check_allocated(const Tensor& x, const char* name) {
  const auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  STD_TORCH_CHECK(x.numel() == 0 || address != size_t(x.storage_offset()) * x.element_size(), name,
                  " has no memory: its storage was freed");
}

// A tensor of type T and this shape there, or an error that says what came.
template <class T, class Sizes = std::initializer_list<int64_t>>
void check(const Tensor& x, const Sizes& shape, const char* name, const Device& where) {
  const Device found = device_of(x);
  STD_TORCH_CHECK(found.type == where.type && found.index == where.index, name, " must be on ",
                  where.index < 0 ? "the CPU" : "CUDA device " + std::to_string(where.index));
  STD_TORCH_CHECK(x.scalar_type() == kType<T>, name, " has the wrong dtype: expected code ",
                  int(kType<T>), ", got ", int(x.scalar_type()));
  const auto got = x.sizes();
  STD_TORCH_CHECK(std::equal(got.begin(), got.end(), shape.begin(), shape.end()), name,
                  " must have shape ", shape_text(shape), ", got ", shape_text(got));
  check_allocated(x, name);
}

template <class T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Inputs as the kernels want them: dense and checked. Dense copies live until the call ends.
class Inputs {
 public:
  explicit Inputs(const Device& where) : where_(where) {}
  template <class T>
  const T* get(const Tensor& x, std::initializer_list<int64_t> shape, const char* name) {
    check<T>(x, shape, name, where_);
    if (x.is_contiguous()) return data<T>(x);  // the caller holds it
    kept_.push_back(torch::stable::contiguous(x));
    return data<T>(kept_.back());
  }
  template <class T>
  const T* get(const OptTensor& x, std::initializer_list<int64_t> shape, const char* name) {
    return x.has_value() ? get<T>(*x, shape, name) : nullptr;
  }

 private:
  Device where_;
  std::vector<Tensor> kept_;
};

// A new tensor there, dense and not filled. Goes past the dispatcher, which would take longer than a
// small step does.
template <class T, class Sizes = std::initializer_list<int64_t>>
Tensor make(const Sizes& shape, const Device& where = cpu_device()) {
  constexpr int64_t kMost = 8;
  int64_t strides[kMost], stride = 1;
  int64_t k = shape.size();
  STD_TORCH_CHECK(k <= kMost, "at most ", kMost, " dimensions, got ", k);
  for (auto n = shape.end(); n != shape.begin();) {
    strides[--k] = stride;
    stride *= *--n;
  }
  AtenTensorHandle handle;
  const auto failed = aoti_torch_empty_strided(
      shape.size(), &*shape.begin(), strides,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(kType<T>)), where.type,
      where.index < 0 ? 0 : where.index, &handle);
  STD_TORCH_CHECK(!failed, "no memory for a tensor of shape ", shape_text(shape));
  return Tensor(handle);
}

// x (T, B, I) and weight_hh (4H, P): there are inputs and units. T and B may be 0.
inline bool is_sequence(const Tensor& x) { return x.dim() == 3 && x.size(2) >= 1; }
inline bool is_recurrent(const Tensor& weight_hh) {
  return weight_hh.dim() == 2 && weight_hh.size(0) >= 4 && weight_hh.size(0) % 4 == 0 &&
         weight_hh.size(1) >= 1;
}

// x (T, B, I) and weight_hh (4H, P), before anything else is asked of them; and `save`, what a forward call
// keeps for backward: 0 nothing, 1 the cells, 2 the cells and the activated gates.
inline void check_forward(const Tensor& x, const Tensor& weight_hh, const OptTensor& bias_ih,
                          const OptTensor& bias_hh, int64_t save) {
  STD_TORCH_CHECK(is_sequence(x) && is_recurrent(weight_hh),
                  "x must be (T, B, I) and weight_hh (4H, P), I, H and P 1 or more, got ",
                  shape_text(x.sizes()), " and ", shape_text(weight_hh.sizes()));
  STD_TORCH_CHECK(bias_ih.has_value() == bias_hh.has_value(), "there are both biases or none");
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save must be 0, 1 or 2, got ", save);
}
inline void check_backward(const Tensor& gates, const Tensor& weight_hh) {
  STD_TORCH_CHECK(gates.dim() == 3 && is_recurrent(weight_hh) && gates.size(2) == weight_hh.size(0),
                  "gates must be (T, B, 4H) and weight_hh (4H, P), H and P 1 or more, got ",
                  shape_text(gates.sizes()), " and ", shape_text(weight_hh.sizes()));
}

// All of a sequence but its lengths, which only the CPU can look at at once.
template <class S>
void fill_sequence(SequenceParams<S>& p, Inputs& in, const Tensor& weight_hh,
                   const OptTensor& weight_hr, const Tensor& c0, const OptTensor& reset_mask,
                   const OptTensor& recurrent_mask, bool reverse) {
  p.H = weight_hh.size(0) / 4;
  p.P = weight_hh.size(1);
  p.reverse = reverse;
  STD_TORCH_CHECK(weight_hr.has_value() || p.P == p.H, "weight_hh has ", p.P,
                  " columns for H = ", p.H, ", which needs weight_hr");
  p.weight_hh = in.get<S>(weight_hh, {4 * p.H, p.P}, "weight_hh");
  p.weight_hr = in.get<S>(weight_hr, {p.P, p.H}, "weight_hr");
  p.c0 = in.get<Acc<S>>(c0, {p.B, p.H}, "c0");
  p.reset = in.get<bool>(reset_mask, {p.T, p.B}, "reset_mask");
  p.recurrent_mask = in.get<S>(recurrent_mask, {p.B, p.P}, "recurrent_mask");
}

struct StateSizes {
  int64_t LD, slots, P, H;
};

template <class S>
StateSizes check_state(const Tensor& h, const Tensor& c, const Device& where) {
  STD_TORCH_CHECK(h.dim() == 3 && c.dim() == 3, "h must be (L*D, slots, P) and c (L*D, slots, H)");
  const StateSizes n = {h.size(0), h.size(1), h.size(2), c.size(2)};
  check<S>(h, {n.LD, n.slots, n.P}, "h", where);
  check<Acc<S>>(c, {n.LD, n.slots, n.H}, "c", where);
  STD_TORCH_CHECK(n.P >= 1 && n.H >= 1, "h and c need a size of 1 or more, got ", n.P, " and ",
                  n.H);
  STD_TORCH_CHECK(h.is_contiguous() && c.is_contiguous(), "h and c must be contiguous");
  return n;
}

// Whether two dense tensors share memory: an input may be the state itself, which changes under it.
inline bool overlap(const Tensor& a, const Tensor& b) {
  const char *first = static_cast<const char*>(a.const_data_ptr()),
             *second = static_cast<const char*>(b.const_data_ptr());
  return first < second + b.numel() * b.element_size() &&
         second < first + a.numel() * a.element_size();
}

// The operators' schemas, alike for all devices; lstm_gradients and lstm_gates are there on the CPU alone.
constexpr const char* kForward =
    "lstm_forward(Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, "
    "Tensor? bias_hh, Tensor? weight_hr, Tensor h0, Tensor c0, Tensor? reset_mask, "
    "Tensor? lengths, Tensor? recurrent_mask, bool reverse, int save, bool in_place=False, "
    "bool tf32=False) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells)";
constexpr const char* kBackward =
    "lstm_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor gates, "
    "Tensor cells, Tensor weight_hh, Tensor? weight_hr, Tensor c0, Tensor? reset_mask, "
    "Tensor? lengths, Tensor? recurrent_mask, bool reverse, bool tf32=False) -> "
    "(Tensor grad_gates, Tensor grad_h0, Tensor grad_c0, Tensor grad_hidden)";
constexpr const char* kGradients =
    "lstm_gradients(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor gates, "
    "Tensor cells, Tensor x, Tensor y, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, "
    "Tensor? weight_hr, Tensor? reset_mask, Tensor? lengths, Tensor? recurrent_mask, bool reverse, "
    "Tensor? sum_ih, Tensor? sum_hh, Tensor? sum_bias, int wanted) -> "
    "(Tensor grad_x, Tensor grad_ih, Tensor grad_hh, Tensor grad_bias, Tensor grad_h0, "
    "Tensor grad_c0, Tensor grad_hidden)";
constexpr const char* kGates =
    "lstm_gates(Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor? weight_hr, Tensor h0, Tensor c0, Tensor? reset_mask, Tensor? lengths, "
    "Tensor? recurrent_mask, bool reverse, Tensor y, Tensor cells) -> Tensor gates";
constexpr const char* kStep =
    "lstm_step_(Tensor x, Tensor[] weights, Tensor(a!) h, Tensor(b!) c, Tensor? state_indices, "
    "Tensor? reset_mask, Tensor? lengths, bool bias, bool bidirectional, bool tf32=False) -> "
    "(Tensor y, Tensor h_n, Tensor c_n)";
constexpr const char* kGather =
    "state_gather(Tensor h, Tensor c, Tensor? state_indices) -> (Tensor h0, Tensor c0)";
constexpr const char* kScatter =
    "state_scatter_(Tensor(a!) h, Tensor(b!) c, Tensor? state_indices, Tensor h_n, Tensor c_n) "
    "-> ()";
constexpr const char* kWrite =
    "state_write_(Tensor(a!) h, Tensor(b!) c, Tensor? state_indices, Tensor h_n, Tensor c_n) "
    "-> ()";

}  // namespace stateful_lstm
