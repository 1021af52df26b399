// The fast path of inference: a stack in place on its state.
#include "bindings/fastpath.h"

#include <exception>
#include <vector>

#include "runtime/stateful_inference.h"

namespace stateful_lstm::python {
namespace {

bool overlap(const View& a, const char* begin, const char* end) {
  const char* first = a.data<char>();
  int64_t last = 1;  // elements from the first to past the last
  for (int d = 0; d < a.t.ndim; ++d) last += (a.size(d) - 1) * a.stride(d);
  return first < end && begin < first + last * (a.t.dtype.bits / 8);
}

struct Call {
  PyObject *x, *parameters, *names, *h, *c, *state_indices, *reset_mask, *lengths;
  bool bias, bidirectional, batch_first;
};

// Objects that must not go while torch or the kernels let other Python threads run.
struct Held {
  static constexpr int kMost = 64;
  PyObject* objects[kMost];
  int count = 0;

  PyObject* add(PyObject* borrowed) {
    Py_XINCREF(borrowed);
    return objects[count++] = borrowed;
  }
  ~Held() {
    while (count > 0) Py_XDECREF(objects[--count]);
  }
};

template <class S>
PyObject* step_on(const Call& call, const View& h, const View& c) {
  StackCall<S> s = {};
  const int64_t LD = h.size(0);
  s.D = call.bidirectional ? 2 : 1;
  s.L = LD / s.D;
  s.slots = h.size(1);
  s.P = h.size(2);
  if (!c.is<Acc<S>>(3)) return nothing();
  s.H = c.size(2);
  if (!h.is_dense<S>(LD, s.slots, s.P) || !c.is_dense<Acc<S>>(LD, s.slots, s.H)) return nothing();
  s.h = h.data<S>();
  s.c = c.data<Acc<S>>();

  const View x(call.x);
  const int time = call.batch_first ? 1 : 0, row = 1 - time;
  if (!x.is<S>(3) || is_negative_view(call.x)) return nothing();
  s.T = x.size(time);
  s.B = x.size(row);
  s.I = x.size(2);
  if (s.T < 1 || s.B < 1 || s.I < 1 || LD % s.D != 0 || LD < 1) return nothing();
  if (s.I != 1 && x.stride(2) != 1) return nothing();
  s.x = x.data<S>();
  s.x_time = x.stride(time);
  s.x_row = x.stride(row);
  const char *h_begin = h.data<char>(), *c_begin = c.data<char>();
  if (overlap(x, h_begin, h_begin + LD * s.slots * s.P * sizeof(S)) ||
      overlap(x, c_begin, c_begin + LD * s.slots * s.H * sizeof(Acc<S>)))
    return nothing();

  if (call.reset_mask != Py_None) {
    const View mask(call.reset_mask);
    if (!mask.is<bool>(2) || mask.size(time) != s.T || mask.size(row) != s.B) return nothing();
    s.reset = mask.data<bool>();
    s.reset_time = mask.stride(time);
    s.reset_row = mask.stride(row);
  }
  std::vector<int64_t> rows;
  if (call.state_indices != Py_None) {
    const View index(call.state_indices);
    const bool narrow = index.is<int32_t>(1);
    if ((!narrow && !index.is<int64_t>(1)) || index.size(0) != s.B) return nothing();
    const int64_t stride = index.stride(0);
    if ((narrow ? misplaced_row(index.data<int32_t>(), stride, s.B, s.slots, rows)
                : misplaced_row(index.data<int64_t>(), stride, s.B, s.slots, rows)) >= 0)
      return nothing();
    s.rows = rows.data();
  } else if (s.slots != s.B) {
    return nothing();
  }

  std::vector<int64_t> lengths;
  if (call.lengths != Py_None) {
    const View given(call.lengths);
    if (!given.is<int64_t>(1) || given.size(0) != s.B) return nothing();
    for (int64_t b = 0; b < s.B; ++b) {
      lengths.push_back(given.data<int64_t>()[b * given.stride(0)]);
      if (lengths[b] < 0 || lengths[b] > s.T) return nothing();
    }
    s.lengths = lengths.data();
  }

  const bool projection = s.P != s.H;
  const int64_t each = 2 + (call.bias ? 2 : 0) + (projection ? 1 : 0);
  if (PyList_Size(call.names) != LD * each) return nothing();
  if (LD * each > Held::kMost) return nothing();
  Held held;
  const auto weight = [&](int64_t k) {
    PyObject* object = PyDict_GetItemWithError(call.parameters, PyList_GetItem(call.names, k));
    return View(held.add(object));
  };
  s.w.reserve(LD);
  for (int64_t k = 0; k < LD; ++k) {
    LayerWeights<S> w = {};
    const int64_t first = k * each, width = k < s.D ? s.I : s.D * s.P;
    const View ih = weight(first), hh = weight(first + 1);
    if (!ih.is_dense<S>(4 * s.H, width) || !hh.is_dense<S>(4 * s.H, s.P)) return nothing();
    w.weight_ih = ih.data<S>();
    w.weight_hh = hh.data<S>();
    if (call.bias) {
      const View b_ih = weight(first + 2), b_hh = weight(first + 3);
      if (!b_ih.is_dense<S>(4 * s.H) || !b_hh.is_dense<S>(4 * s.H)) return nothing();
      w.bias_ih = b_ih.data<S>();
      w.bias_hh = b_hh.data<S>();
    }
    if (projection) {
      const View hr = weight(first + each - 1);
      if (!hr.is_dense<S>(s.P, s.H)) return nothing();
      w.weight_hr = hr.data<S>();
    }
    s.w.push_back(w);
  }
  for (int n = 0; n < held.count; ++n)
    if (is_negative_view(held.objects[n])) return nothing();

  const int64_t width = s.D * s.P;
  Outputs<3> outputs;
  Output& y = outputs.add(call.batch_first ? new_output<S>(true, s.B, s.T, width)
                                           : new_output<S>(true, s.T, s.B, width));
  s.y = y.template data<S>();
  s.y_time = y.strides[time];
  s.y_row = y.strides[row];
  s.h_n = outputs.add(new_output<S>(false, LD, s.B, s.P)).template data<S>();
  s.c_n = outputs.add(new_output<S>(false, LD, s.B, s.H)).template data<S>();
  {
    // Other Python threads may run meanwhile, and replace a parameter.
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

// The state has been written to: a graph that saved it must be told.
PyObject* with_versions(PyObject* out, const Call& call) {
  PyObject* state = PyTuple_Pack(2, call.h, call.c);
  PyObject* done =
      state == nullptr ? nullptr : PyObject_CallFunctionObjArgs(mark_changed, state, nullptr);
  Py_XDECREF(state);
  if (done == nullptr) Py_CLEAR(out);
  Py_XDECREF(done);
  return out;
}

}  // namespace

PyObject* step(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 11 || !PyDict_Check(args[1]) || !PyList_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "step() takes 11 arguments, of which a dict and a list");
    return nullptr;
  }
  if (exchange == nullptr || !nobody_watches(Caller::step)) return nothing();
  const Call call = {args[0],
                     args[1],
                     args[2],
                     args[3],
                     args[4],
                     args[5],
                     args[6],
                     args[7],
                     args[8] == Py_True,
                     args[9] == Py_True,
                     args[10] == Py_True};
  try {
    const View h(call.h), c(call.c);
    PyObject* out = h.is<float>(3)      ? step_on<float>(call, h, c)
                    : h.is<double>(3)   ? step_on<double>(call, h, c)
                    : h.is<bfloat16>(3) ? step_on<bfloat16>(call, h, c)
                                        : nothing();
    return out == nullptr || out == Py_None ? out : with_versions(out, call);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

}  // namespace stateful_lstm::python
