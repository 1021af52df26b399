// The fast path of inference: a stack in place on its state.
#include <utility>

#include "bindings/arguments.h"
#include "bindings/fastpath.h"

namespace stateful_lstm::python {
namespace {

bool overlap(const TensorView& a, const TensorView& b, int64_t element_of_a, int64_t element_of_b) {
  return a.begin() < b.end(element_of_b) && b.begin() < a.end(element_of_a);
}

// The arguments of step, in order.
enum {
  kX,
  kParameters,
  kNames,
  kH,
  kC,
  kStateIndices,
  kResetMask,
  kLengths,
  kBias,
  kBidirectional,
  kBatchFirst,
  kArguments
};

// References to objects that must stay while torch or the kernels let other Python threads run.
struct Held {
  static constexpr int kMost = 64;
  PyObject* objects[kMost];
  int count = 0;

  PyObject* add(PyObject* borrowed) {
    Py_XINCREF(borrowed);
    return objects[count++] = borrowed;
  }
  bool some_are_negative() const {
    for (int n = 0; n < count; ++n)
      if (is_negative_view(objects[n])) return true;
    return false;
  }
  ~Held() {
    while (count > 0) Py_XDECREF(objects[--count]);
  }
};

template <class S>
PyObject* step_on(PyObject* const* args, const StackViews& views) {
  const int64_t count = PyList_Size(args[kNames]);
  if (count > Held::kMost || overlap(views.x, views.h, sizeof(S), sizeof(S)) ||
      overlap(views.x, views.c, sizeof(S), sizeof(Acc<S>)))
    return nothing();
  Held held;
  const auto weight = [&](int64_t k) {
    PyObject* name = PyList_GetItem(args[kNames], k);
    return view_of(held.add(PyDict_GetItemWithError(args[kParameters], name)));
  };
  StackArguments<S> all;
  StackCall<S>& s = all.call;
  if (!fill_stack<S>(refusing_checker(), all, views, count, weight) || s.B == 0 ||
      held.some_are_negative() || is_negative_view(args[kX])) {
    PyErr_Clear();
    return nothing();
  }
  const int64_t width = s.D * s.P, LD = s.L * s.D;
  const int time = views.batch_first ? 1 : 0;
  Outputs<3> outputs;
  Output& y = outputs.add(views.batch_first ? new_output<S>(true, s.B, s.T, width)
                                            : new_output<S>(true, s.T, s.B, width));
  s.y = y.template data<S>();
  s.y_time = y.strides[time];
  s.y_row = y.strides[1 - time];
  s.h_n = outputs.add(new_output<S>(false, LD, s.B, s.P)).template data<S>();
  s.c_n = outputs.add(new_output<S>(false, LD, s.B, s.H)).template data<S>();
  {
    // Other Python threads may replace a parameter meanwhile.
    const Released released(s.T * s.B * LD * 4 * s.H * (s.I + s.P));
    run(s);
  }
  PyObject* made[3] = {};
  for (int k = 0; k < 3; ++k) {
    made[k] = outputs.to_python(k);
    if (made[k] == nullptr) {
      for (PyObject* each_made : made) Py_XDECREF(each_made);
      return nullptr;
    }
  }
  return Py_BuildValue("(N(NN))", made[0], made[1], made[2]);
}

// Bumps the versions of h and c: a graph that saved the state must see that it has changed.
PyObject* with_versions(PyObject* out, PyObject* h, PyObject* c) {
  PyObject* state = PyTuple_Pack(2, h, c);
  PyObject* done =
      state == nullptr ? nullptr : PyObject_CallFunctionObjArgs(mark_changed, state, nullptr);
  Py_XDECREF(state);
  if (done == nullptr) Py_CLEAR(out);
  Py_XDECREF(done);
  return out;
}

}  // namespace

PyObject* step(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != kArguments || !PyDict_Check(args[kParameters]) || !PyList_Check(args[kNames])) {
    PyErr_SetString(PyExc_TypeError, "step() takes 11 arguments, of which a dict and a list");
    return nullptr;
  }
  if (exchange == nullptr || !no_mode_watches() || runs_in_backward_pass()) return nothing();
  StackViews v = {};
  v.bias = args[kBias] == Py_True;
  v.bidirectional = args[kBidirectional] == Py_True;
  v.batch_first = args[kBatchFirst] == Py_True;
  v.x = view_of(args[kX]);
  v.h = view_of(args[kH]);
  v.c = view_of(args[kC]);
  if (!v.x.given || !v.h.given || !v.c.given) return nothing();
  for (const auto& [view, object] :
       {std::pair(&v.state_indices, args[kStateIndices]),
        std::pair(&v.reset_mask, args[kResetMask]), std::pair(&v.lengths, args[kLengths])}) {
    if (object == Py_None) continue;
    *view = view_of(object);
    if (!view->given) return nothing();
  }
  PyObject* out = by_dtype(v.h, [&](auto number) { return step_on<decltype(number)>(args, v); });
  return out == nullptr || out == Py_None ? out : with_versions(out, args[kH], args[kC]);
}

}  // namespace stateful_lstm::python
