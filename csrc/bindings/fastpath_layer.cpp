// The fast paths of sequences: a layer in one direction without a projection, and its gradients.
#include <algorithm>
#include <exception>

#include "bindings/fastpath.h"
#include "runtime/layer.h"

namespace stateful_lstm::python {
namespace {

// Work worth letting other Python threads run: multiply-adds of a call with so many products of weights.
template <class S>
int64_t work(const SequenceParams<S>& p, int64_t I, int64_t products) {
  return products * p.T * p.B * 4 * p.H * (I + p.P);
}

// What forward and backward take alike. Whether all is there and dense; `x` is (T, B, I) and `weight_hh` (4H, H).
struct Layer {
  View x, weight_ih, weight_hh, h0, c0, reset;
  bool resets;

  template <class S>
  bool fill(SequenceParams<S>& p, int64_t& I) const {
    if (!x.is<S>(3) || !weight_hh.is<S>(2)) return false;
    p.T = x.size(0);
    p.B = x.size(1);
    I = x.size(2);
    p.H = p.P = weight_hh.size(1);
    if (p.T < 1 || p.B < 1 || I < 1 || p.H < 1) return false;
    p.weight_hh = weight_hh.data<S>();
    p.c0 = c0.data<Acc<S>>();
    p.reset = resets ? reset.data<bool>() : nullptr;
    return x.is_dense<S>(p.T, p.B, I) && weight_ih.is_dense<S>(4 * p.H, I) &&
           weight_hh.is_dense<S>(4 * p.H, p.H) && h0.is_dense<S>(p.B, p.H) &&
           c0.is_dense<Acc<S>>(p.B, p.H) && (!resets || reset.is_dense<bool>(p.T, p.B));
  }
};

template <int count>
bool some_are_negative(PyObject* const (&tensors)[count]) {
  return std::any_of(tensors, tensors + count, [](PyObject* tensor) {
    return tensor != Py_None && is_negative_view(tensor);
  });
}

// A tensor that need not be there: null for None; `ok` becomes false for one that does not fit.
template <class T, class... Sizes>
const T* optional(PyObject* tensor, bool& ok, Sizes... sizes) {
  if (tensor == Py_None) return nullptr;
  const View view(tensor);
  if (!view.is_dense<T>(sizes...)) {
    ok = false;
    return nullptr;
  }
  return view.data<T>();
}

template <class S>
PyObject* forward_of(const Layer& layer, PyObject* bias_ih, PyObject* bias_hh, bool save) {
  using A = Acc<S>;
  ForwardParams<S> p = {};
  if (!layer.fill(p, p.I)) return nothing();
  bool ok = (bias_ih == Py_None) == (bias_hh == Py_None);
  p.bias_ih = optional<S>(bias_ih, ok, 4 * p.H);
  p.bias_hh = optional<S>(bias_hh, ok, 4 * p.H);
  if (!ok) return nothing();
  p.x = layer.x.data<S>();
  p.weight_ih = layer.weight_ih.data<S>();
  p.h0 = layer.h0.data<S>();
  Outputs<5> outputs;
  p.y = outputs.add(new_output<S>(true, p.T, p.B, p.H)).template data<S>();
  p.h_n = outputs.add(new_output<S>(false, 1, p.B, p.H)).template data<S>();
  p.c_n = outputs.add(new_output<A>(false, 1, p.B, p.H)).template data<A>();
  if (save) {
    p.gates = outputs.add(new_output<S>(true, p.T, p.B, 4 * p.H)).template data<S>();
    p.cells = outputs.add(new_output<A>(true, p.T, p.B, p.H)).template data<A>();
  }
  {
    const Released released(work(p, p.I, 1));
    run_forward(p, /*may_be_in_place=*/!save);
  }
  const int count = save ? 5 : 3;
  PyObject* all = PyTuple_New(count);
  for (int k = 0; all != nullptr && k < count; ++k) {
    PyObject* made = outputs.to_python(k);
    if (made == nullptr || PyTuple_SetItem(all, k, made) != 0) Py_CLEAR(all);
  }
  return all;
}

// What was saved for backward, and the places of this in a tuple that is the regular path's.
enum Saved { kX, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kH0, kC0, kReset, kY, kCells, kGates };
constexpr int kSaved = kGates + 1, kInputs = kReset + 1;  // inputs of the function, after the first
constexpr int kPlaces[kSaved] = {0, 1, 2, 3, 4, 6, 7, 8, 11, 14, 15}, kAll = 16;

template <class S>
PyObject* gradients_of(const Layer& layer, PyObject* const (&grads)[3],
                       PyObject* const (&saved)[kSaved], const bool (&wanted)[kInputs]) {
  using A = Acc<S>;
  BackwardParams<S> p = {};
  GradientParams<S> g = {};
  const View y(saved[kY]), gates(saved[kGates]), cells(saved[kCells]);
  if (!layer.fill(p, g.I)) return nothing();
  bool ok = y.is_dense<S>(p.T, p.B, p.H) && gates.is_dense<S>(p.T, p.B, 4 * p.H) &&
            cells.is_dense<A>(p.T, p.B, p.H);
  p.grad_y = optional<S>(grads[0], ok, p.T, p.B, p.H);
  p.grad_h_n = optional<S>(grads[1], ok, int64_t{1}, p.B, p.H);
  p.grad_c_n = optional<A>(grads[2], ok, int64_t{1}, p.B, p.H);
  if (!ok || (!p.grad_y && !p.grad_h_n && !p.grad_c_n)) return nothing();
  p.gates = gates.data<S>();
  p.cells = cells.data<A>();
  static_cast<SequenceParams<S>&>(g) = p;
  g.x = layer.x.data<S>();
  g.y = y.data<S>();
  g.h0 = layer.h0.data<S>();
  g.weight_ih = layer.weight_ih.data<S>();

  Outputs<kInputs> outputs;
  int places[kInputs], count = 0;
  const auto add = [&](int input, Output* output) {
    places[count++] = input;
    return outputs.add(output).block.get();
  };
  WeightGradients<S> weights = {};
  weights.last = true;
  if (wanted[kX]) g.grad_x = static_cast<S*>(add(kX, new_output<S>(true, p.T, p.B, g.I)));
  if (wanted[kWeightIh]) weights.to[0] = add(kWeightIh, new_output<S>(true, 4 * p.H, g.I));
  if (wanted[kWeightHh]) weights.to[1] = add(kWeightHh, new_output<S>(true, 4 * p.H, p.H));
  // Each bias gets a gradient of its own: someone may change one in place.
  void* of_biases[2] = {};
  for (int k = 0; k < 2; ++k)
    if (wanted[kBiasIh + k]) of_biases[k] = add(kBiasIh + k, new_output<S>(true, 4 * p.H));
  weights.to[2] = of_biases[0] != nullptr ? of_biases[0] : of_biases[1];
  const int64_t state = p.B * p.H;
  S* of_h0 = wanted[kH0] ? static_cast<S*>(add(kH0, new_output<S>(false, p.B, p.H))) : nullptr;
  const Buffer<A> exact_h0(of_h0 == nullptr ? 0 : state), unwanted_c0(wanted[kC0] ? 0 : state);
  p.grad_h0 = exact_h0.get();
  p.grad_c0 =
      wanted[kC0] ? static_cast<A*>(add(kC0, new_output<A>(false, p.B, p.H))) : unwanted_c0.get();
  {
    const Released released(work(p, g.I, 2));
    run_all_gradients(p, g, weights);
    if (of_h0 != nullptr) round_sums(of_h0, exact_h0.get(), state);
    if (of_biases[0] != nullptr && of_biases[1] != nullptr)
      std::copy_n(static_cast<S*>(of_biases[0]), 4 * p.H, static_cast<S*>(of_biases[1]));
  }
  PyObject* all = PyTuple_New(1 + kInputs);  // the function's first input wants no gradient
  for (int k = 0, next = 0; all != nullptr && k < 1 + kInputs; ++k) {
    PyObject* made = Py_None;
    if (next < count && k == 1 + places[next])
      made = outputs.to_python(next++);
    else
      Py_INCREF(made);
    if (made == nullptr || PyTuple_SetItem(all, k, made) != 0) Py_CLEAR(all);
  }
  return all;
}

template <class F>
PyObject* by_dtype(const View& weight, const F& f) {
  try {
    return weight.is<float>(2)      ? f(float{})
           : weight.is<double>(2)   ? f(double{})
           : weight.is<bfloat16>(2) ? f(bfloat16{})
                                    : nothing();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

}  // namespace

PyObject* forward(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 9) {
    PyErr_SetString(PyExc_TypeError, "forward() takes 9 arguments");
    return nullptr;
  }
  if (exchange == nullptr || !nobody_watches(Caller::sequence)) return nothing();
  PyObject* const tensors[] = {args[0], args[1], args[2], args[3], args[4], args[5], args[6]};
  const bool resets = args[7] != Py_None;
  const Layer layer = {View(args[0]), View(args[1]), View(args[2]),
                       View(args[5]), View(args[6]), View(resets ? args[7] : nullptr),
                       resets};
  if (!layer.x.ok || !layer.weight_hh.ok || some_are_negative(tensors)) return nothing();
  return by_dtype(layer.weight_hh, [&](auto number) {
    return forward_of<decltype(number)>(layer, args[3], args[4], args[8] == Py_True);
  });
}

PyObject* gradients(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 5 || !PyTuple_Check(args[3]) || PyTuple_Size(args[3]) != kAll ||
      !PyTuple_Check(args[4]) || PyTuple_Size(args[4]) != 1 + kInputs) {
    PyErr_SetString(PyExc_TypeError, "gradients() takes 5 arguments, of which two long tuples");
    return nullptr;
  }
  if (exchange == nullptr || !nobody_watches(Caller::sequence)) return nothing();
  PyObject* const grads[] = {args[0], args[1], args[2]};
  PyObject* saved[kSaved];
  bool wanted[kInputs];
  for (int k = 0; k < kSaved; ++k) saved[k] = PyTuple_GetItem(args[3], kPlaces[k]);
  for (int k = 0; k < kInputs; ++k) wanted[k] = PyTuple_GetItem(args[4], 1 + k) == Py_True;
  if (wanted[kReset] || some_are_negative(grads) || some_are_negative(saved)) return nothing();
  const bool resets = saved[kReset] != Py_None;
  const Layer layer = {View(saved[kX]),
                       View(saved[kWeightIh]),
                       View(saved[kWeightHh]),
                       View(saved[kH0]),
                       View(saved[kC0]),
                       View(resets ? saved[kReset] : nullptr),
                       resets};
  return by_dtype(layer.weight_hh, [&](auto number) {
    return gradients_of<decltype(number)>(layer, grads, saved, wanted);
  });
}

}  // namespace stateful_lstm::python
