// The fast path of a layer in one direction without a projection: forward, and its gradients.
#include <algorithm>

#include "bindings/arguments.h"
#include "bindings/fastpath.h"
#include "runtime/layer.h"

namespace stateful_lstm::python {
namespace {

// Multiply-adds of a call that goes `products` times through the weights.
template <class S>
int64_t work(const SequenceParams<S>& p, int64_t I, int64_t products) {
  return products * p.T * p.B * 4 * p.H * (I + p.P);
}

template <int count>
bool some_are_negative(PyObject* const (&tensors)[count]) {
  return std::any_of(tensors, tensors + count, [](PyObject* tensor) {
    return tensor != Py_None && is_negative_view(tensor);
  });
}

// Sets `view` to the view of an optional tensor: not given for None. Answers false for another object.
bool look_at(TensorView& view, PyObject* object) {
  if (object != Py_None) view = view_of(object);
  return object == Py_None || view.given;
}

// The arguments of forward, in order; `save` follows.
enum { kX, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kH0, kC0, kReset, kInputs };

template <class S>
PyObject* forward_of(const LayerViews& views, bool save) {
  using A = Acc<S>;
  ForwardParams<S> p = {};
  if (!fill_layer<S>(refusing_checker(), p, views, /*reverse=*/false) || p.T == 0 || p.B == 0)
    return nothing();
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

// Which inputs want a gradient, in the order of the results. A layer here has no weight_hr, and gives None for it.
enum {
  kGradX,
  kGradWeightIh,
  kGradWeightHh,
  kGradBiasIh,
  kGradBiasHh,
  kGradWeightHr,
  kGradH0,
  kGradC0,
  kGrads
};

template <class S>
PyObject* gradients_of(const GradientViews& views, const bool (&wanted)[kGrads]) {
  using A = Acc<S>;
  BackwardParams<S> p = {};
  GradientParams<S> g = {};
  if (!fill_gradients<S>(refusing_checker(), p, g, views, /*reverse=*/false) || p.T == 0 ||
      p.B == 0 || (!p.grad_y && !p.grad_h_n && !p.grad_c_n))
    return nothing();

  Outputs<kGrads> outputs;
  int places[kGrads], count = 0;
  const auto add = [&](int input, Output* output) {
    places[count++] = input;
    return outputs.add(output).block.get();
  };
  WeightGradients<S> weights = {};
  weights.last = true;
  if (wanted[kGradX]) g.grad_x = static_cast<S*>(add(kGradX, new_output<S>(true, p.T, p.B, g.I)));
  if (wanted[kGradWeightIh]) weights.to[0] = add(kGradWeightIh, new_output<S>(true, 4 * p.H, g.I));
  if (wanted[kGradWeightHh]) weights.to[1] = add(kGradWeightHh, new_output<S>(true, 4 * p.H, p.H));
  // Each bias gets a gradient of its own: the caller may change one in place.
  void* of_biases[2] = {};
  for (int k = 0; k < 2; ++k)
    if (wanted[kGradBiasIh + k]) of_biases[k] = add(kGradBiasIh + k, new_output<S>(true, 4 * p.H));
  weights.to[2] = of_biases[0] != nullptr ? of_biases[0] : of_biases[1];
  const int64_t state = p.B * p.H;
  S* of_h0 =
      wanted[kGradH0] ? static_cast<S*>(add(kGradH0, new_output<S>(false, p.B, p.H))) : nullptr;
  const Buffer<A> exact_h0(of_h0 == nullptr ? 0 : state), unwanted_c0(wanted[kGradC0] ? 0 : state);
  p.grad_h0 = exact_h0.get();
  p.grad_c0 = wanted[kGradC0] ? static_cast<A*>(add(kGradC0, new_output<A>(false, p.B, p.H)))
                              : unwanted_c0.get();
  {
    const Released released(work(p, g.I, 2));
    run_all_gradients(p, g, weights);
    if (of_h0 != nullptr) round_sums(of_h0, exact_h0.get(), state);
    if (of_biases[0] != nullptr && of_biases[1] != nullptr)
      std::copy_n(static_cast<S*>(of_biases[0]), 4 * p.H, static_cast<S*>(of_biases[1]));
  }
  PyObject* all = PyTuple_New(kGrads);
  for (int k = 0, next = 0; all != nullptr && k < kGrads; ++k) {
    PyObject* made = Py_None;
    if (next < count && k == places[next])
      made = outputs.to_python(next++);
    else
      Py_INCREF(made);
    if (made == nullptr || PyTuple_SetItem(all, k, made) != 0) Py_CLEAR(all);
  }
  return all;
}

}  // namespace

PyObject* forward(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != kInputs + 1) {
    PyErr_SetString(PyExc_TypeError, "forward() takes 9 arguments");
    return nullptr;
  }
  if (exchange == nullptr || !no_mode_watches()) return nothing();
  PyObject* const tensors[] = {args[kX],      args[kWeightIh], args[kWeightHh], args[kBiasIh],
                               args[kBiasHh], args[kH0],       args[kC0]};
  LayerViews v;
  if (!look_at(v.x, args[kX]) || !look_at(v.weight_ih, args[kWeightIh]) ||
      !look_at(v.weight_hh, args[kWeightHh]) || !look_at(v.bias_ih, args[kBiasIh]) ||
      !look_at(v.bias_hh, args[kBiasHh]) || !look_at(v.h0, args[kH0]) ||
      !look_at(v.c0, args[kC0]) || !look_at(v.reset_mask, args[kReset]) ||
      some_are_negative(tensors))
    return nothing();
  return by_dtype(v.weight_hh, [&](auto number) {
    return forward_of<decltype(number)>(v, args[kInputs] == Py_True);
  });
}

PyObject* gradients(PyObject*, PyObject* const* args, Py_ssize_t count) {
  enum {
    kGradY,
    kGradHn,
    kGradCn,
    kFirst,  // of the inputs, as in forward
    kY = kFirst + kInputs,
    kGates,
    kCells,
    kWanted,
    kAll
  };
  if (count != kAll || !PyTuple_Check(args[kWanted]) || PyTuple_Size(args[kWanted]) != kGrads) {
    PyErr_SetString(PyExc_TypeError, "gradients() takes 15 arguments, the last a tuple of 8");
    return nullptr;
  }
  if (exchange == nullptr || !no_mode_watches()) return nothing();
  PyObject* const* inputs = args + kFirst;
  PyObject* tensors[kWanted];
  std::copy_n(args, int(kWanted), tensors);
  tensors[kFirst + kReset] = Py_None;  // a bool has no sign
  bool wanted[kGrads];
  for (int k = 0; k < kGrads; ++k) wanted[k] = PyTuple_GetItem(args[kWanted], k) == Py_True;
  if (wanted[kGradWeightHr]) return nothing();
  GradientViews v;
  if (!look_at(v.grad_y, args[kGradY]) || !look_at(v.grad_h_n, args[kGradHn]) ||
      !look_at(v.grad_c_n, args[kGradCn]) || !look_at(v.x, inputs[kX]) ||
      !look_at(v.weight_ih, inputs[kWeightIh]) || !look_at(v.weight_hh, inputs[kWeightHh]) ||
      !look_at(v.h0, inputs[kH0]) || !look_at(v.c0, inputs[kC0]) ||
      !look_at(v.reset_mask, inputs[kReset]) || !look_at(v.y, args[kY]) ||
      !look_at(v.gates, args[kGates]) || !look_at(v.cells, args[kCells]) ||
      some_are_negative(tensors))
    return nothing();
  // A layer alone returns its final state with a first dimension of 1.
  v.grad_h_n = v.grad_h_n.without_first();
  v.grad_c_n = v.grad_c_n.without_first();
  return by_dtype(v.weight_hh,
                  [&](auto number) { return gradients_of<decltype(number)>(v, wanted); });
}

}  // namespace stateful_lstm::python
