// What the operators of both devices share: views of torch's tensors, new tensors, schemas.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <deque>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/arguments.h"
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

// torch.utils.checkpoint, and torch.compile where it saves memory, run forward again in backward. Python refuses
// that (stateful_call.py), but does not run in a compiled call.
inline void refuse_in_backward_pass() {
  STD_TORCH_CHECK(
      in_backward_pass == nullptr || !in_backward_pass(),
      "a stateful layer was run again inside a backward pass, as torch.utils.checkpoint and "
      "torch.compile's memory budget do: its state has moved on since, so the gradients would be "
      "wrong. To save memory use StatefulLSTM(..., recompute='gates' or 'segments') instead");
}

inline Device cpu_device() { return {}; }
inline Device device_of(const Tensor& x) {
  if (x.is_cpu()) return cpu_device();
  return {x.is_cuda() ? aoti_torch_device_type_cuda() : -1, x.get_device_index()};
}

inline Dtype dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Bool:
      return Dtype::boolean;
    case ScalarType::Int:
      return Dtype::int32;
    case ScalarType::Long:
      return Dtype::int64;
    case ScalarType::Half:
      return Dtype::float16;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    default:
      return Dtype::other;
  }
}

// A tensor whose storage was freed has a shape but no numbers, and its address is its offset in the storage.
inline bool is_allocated(const Tensor& x) {
  const auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  return x.numel() == 0 || address != size_t(x.storage_offset()) * x.element_size();
}

inline TensorView view_of(const Tensor& x) {
  TensorView view;
  view.given = true;
  view.allocated = is_allocated(x);
  view.dtype = dtype_of(x.scalar_type());
  view.device = device_of(x);
  view.dims = int(x.dim());
  view.sizes = x.sizes().data();
  view.strides = x.strides().data();
  view.data = const_cast<void*>(x.const_data_ptr());
  return view;
}
// Of a tensor that the call writes to. Only such a view may be written through.
inline TensorView view_of_written(const Tensor& x) {
  TensorView view = view_of(x);
  view.data = x.mutable_data_ptr();
  return view;
}

template <class T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// The inputs of a call on one device, dense and checked. It owns dense copies until the call ends.
class Inputs {
 public:
  explicit Inputs(const Device& where) : check(where, Checker::Misfit::raise) {}

  TensorView view(const Tensor& x) {
    const TensorView found = view_of(x);
    if (found.is_dense() || !found.allocated) return found;  // the caller owns it
    copies_.push_back(torch::stable::contiguous(x));
    return view_of(copies_.back());
  }
  TensorView view(const OptTensor& x) { return x.has_value() ? view(*x) : TensorView{}; }

  // The numbers of a tensor of type T and this shape; null where an optional tensor is absent.
  template <class T, class X>
  const T* get(const X& x, std::initializer_list<int64_t> shape, const char* name) {
    const T* numbers;
    check.fill_optional(numbers, view(x), shape, name);
    return numbers;
  }

  const Checker check;

 private:
  std::deque<Tensor> copies_;  // which stay where they are
};

// A new dense tensor, not filled. This goes past the dispatcher, which takes longer than a small step.
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
  STD_TORCH_CHECK(!failed, "no memory for a tensor of shape ",
                  text_of(&*shape.begin(), int(shape.size())));
  return Tensor(handle);
}

// `save`: the tensors that a forward call keeps for backward: 0 none, 1 the cells, 2 the cells and the activated gates.
inline void check_save(int64_t save) {
  STD_TORCH_CHECK(save >= 0 && save <= 2, "save must be 0, 1 or 2, got ", save);
}

inline SequenceViews sequence_views(Inputs& in, const Tensor& weight_hh, const OptTensor& weight_hr,
                                    const Tensor& c0, const OptTensor& reset_mask,
                                    const OptTensor& lengths, const OptTensor& recurrent_mask) {
  return {in.view(weight_hh),  in.view(weight_hr), in.view(c0),
          in.view(reset_mask), in.view(lengths),   in.view(recurrent_mask)};
}

// Whether two tensors share memory: an input may be a part of the state, which the call overwrites.
inline bool overlap(const Tensor& a, const Tensor& b) {
  const TensorView first = view_of(a), second = view_of(b);
  return first.begin() < second.end(b.element_size()) &&
         second.begin() < first.end(a.element_size());
}

// The operators' schemas, the same for all devices. Only the CPU has lstm_gradients and lstm_gates, only CUDA has
// lstm_backward.
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
