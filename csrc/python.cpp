// The Python module `_C`: a short way to lstm_step_, past torch's dispatcher.
//
// Calling an operator with a list of weights takes longer than a step of a small layer. Here the
// tensors come as Python objects, and DLPack's exchange table, which torch fills, tells where they
// lie. Nothing is kept from call to call: pointers, shapes and strides are
// read anew each time. Whatever is unusual is answered with None and no effect, and the caller goes
// the long way, which says what is wrong.
#undef TORCH_TARGET_VERSION  // the next header is DLPack's own, which has an ABI of its own
#define Py_LIMITED_API 0x030A0000
#include <ATen/dlpack.h>
#include <Python.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "stack.h"

namespace stateful_lstm {
namespace {

const DLPackExchangeAPI* exchange = nullptr;
PyTypeObject *tensor_type = nullptr, *parameter_type = nullptr;
PyObject* is_neg = nullptr;        // torch.Tensor.is_neg
PyObject* mark_changed = nullptr;  // bumps the versions of a tuple's tensors

// What Python is asked before the short way is taken, each with the answer on which it may be.
struct Guard {
  PyObject *ask, *argument, *answer;  // argument null: none
};
std::vector<Guard> guards;

bool nobody_watches() {
  for (const Guard& guard : guards) {
    PyObject* answer = guard.argument == nullptr
                           ? PyObject_CallNoArgs(guard.ask)
                           : PyObject_CallFunctionObjArgs(guard.ask, guard.argument, nullptr);
    if (answer == nullptr) {
      PyErr_Clear();
      return false;
    }
    const bool same =
        answer == guard.answer || PyObject_RichCompareBool(answer, guard.answer, Py_EQ) == 1;
    Py_DECREF(answer);
    if (!same) return false;
  }
  return true;
}

template <class T>
constexpr DLDataType kType = {};
template <>
constexpr DLDataType kType<float> = {kDLFloat, 32, 1};
template <>
constexpr DLDataType kType<double> = {kDLFloat, 64, 1};
template <>
constexpr DLDataType kType<bfloat16> = {kDLBfloat, 16, 1};
template <>
constexpr DLDataType kType<bool> = {kDLBool, 8, 1};
template <>
constexpr DLDataType kType<int32_t> = {kDLInt, 32, 1};
template <>
constexpr DLDataType kType<int64_t> = {kDLInt, 64, 1};

bool same(const DLDataType& a, const DLDataType& b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

// Whether the numbers are to be read with the other sign, which DLPack does not tell: so it is with parts
// of conjugated complex tensors.
bool is_negative_view(PyObject* tensor) {
  PyObject* answer = PyObject_CallFunctionObjArgs(is_neg, tensor, nullptr);
  PyErr_Clear();
  Py_XDECREF(answer);
  return answer != Py_False;
}

// A look at a plain CPU tensor, whose numbers may yet be meant negative (is_negative_view); `ok` is false
// for anything else.
struct View {
  DLTensor t = {};
  bool ok = false;

  explicit View(PyObject* object) {
    if (object == nullptr || (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type))
      return;
    if (exchange->dltensor_from_py_object_no_sync(object, &t) != 0) {
      PyErr_Clear();
      return;
    }
    ok = t.device.device_type == kDLCPU && t.data != nullptr;
  }

  int64_t size(int dim) const { return t.shape[dim]; }
  int64_t stride(int dim) const { return t.strides[dim]; }
  template <class T>
  bool is(int dims) const {
    return ok && t.ndim == dims && same(t.dtype, kType<T>);
  }
  template <class T, class... Sizes>
  bool is_dense(Sizes... sizes) const {
    const int64_t expected[] = {sizes...};
    constexpr int dims = sizeof...(sizes);
    if (!is<T>(dims)) return false;
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; --d) {
      if (size(d) != expected[d] || (size(d) != 1 && stride(d) != step)) return false;
      step *= size(d);
    }
    return true;
  }
  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(static_cast<char*>(t.data) + t.byte_offset);
  }
};

// A new tensor's memory: DLPack's description of it, then the numbers. torch calls free_output when
// the tensor goes.
struct alignas(64) Output {
  DLManagedTensorVersioned managed;
  int64_t shape[3], strides[3];

  void* data() { return this + 1; }
};
void free_output(DLManagedTensorVersioned* managed) { std::free(managed); }

template <class S>
Output* new_output(int64_t n0, int64_t n1, int64_t n2) {
  static_assert(offsetof(Output, managed) == 0, "free_output frees what it is given");
  const size_t bytes = sizeof(Output) + n0 * n1 * n2 * sizeof(S);
  auto* out = static_cast<Output*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  if (out == nullptr) return nullptr;
  std::memset(static_cast<void*>(out), 0, sizeof(Output));
  const int64_t shape[] = {n0, n1, n2}, strides[] = {n1 * n2, n2, 1};
  std::memcpy(out->shape, shape, sizeof shape);
  std::memcpy(out->strides, strides, sizeof strides);
  out->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  out->managed.deleter = free_output;
  out->managed.dl_tensor = {out->data(), {kDLCPU, 0}, 3, kType<S>, out->shape, out->strides, 0};
  return out;
}

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

PyObject* nothing() { Py_RETURN_NONE; }

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

// Makes the three outputs Python's: (y, (h_n, c_n)).
PyObject* results(Output* (&outputs)[3]) {
  PyObject* made[3] = {};
  for (int k = 0; k < 3; ++k) {
    void* object = nullptr;
    if (exchange->managed_tensor_to_py_object_no_sync(&outputs[k]->managed, &object) != 0) {
      for (int n = k + 1; n < 3; ++n) std::free(outputs[n]);  // this one is torch's, come what may
      for (PyObject* each : made) Py_XDECREF(each);
      return nullptr;
    }
    made[k] = static_cast<PyObject*>(object);
  }
  return Py_BuildValue("(N(NN))", made[0], made[1], made[2]);
}

template <class S>
PyObject* step(const Call& call, const View& h, const View& c) {
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
  Output* outputs[3] = {
      call.batch_first ? new_output<S>(s.B, s.T, width) : new_output<S>(s.T, s.B, width),
      new_output<S>(LD, s.B, s.P), new_output<S>(LD, s.B, s.H)};
  if (!outputs[0] || !outputs[1] || !outputs[2]) {
    for (Output* each_output : outputs) std::free(each_output);
    return PyErr_NoMemory();
  }
  s.y = static_cast<S*>(outputs[0]->data());
  s.y_time = outputs[0]->strides[time];
  s.y_row = outputs[0]->strides[row];
  s.h_n = static_cast<S*>(outputs[1]->data());
  s.c_n = static_cast<S*>(outputs[2]->data());

  // Other Python threads may run meanwhile, and replace a parameter; not worth it for a small step.
  constexpr int64_t kWork = 1 << 16;  // multiply-adds, some microseconds
  if (s.T * s.B * LD * 4 * s.H * (s.I + s.P) <= kWork) {
    run(s);
    return results(outputs);
  }
  PyThreadState* python = PyEval_SaveThread();
  run(s);
  PyEval_RestoreThread(python);
  return results(outputs);
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

// step(x, parameters, names, h, c, state_indices, reset_mask, lengths, bias,
//      bidirectional, batch_first)
PyObject* step_entry(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 11 || !PyDict_Check(args[1]) || !PyList_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "step() takes 11 arguments, of which a dict and a list");
    return nullptr;
  }
  if (exchange == nullptr || !nobody_watches()) return nothing();
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
    PyObject* out = h.is<float>(3)      ? step<float>(call, h, c)
                    : h.is<double>(3)   ? step<double>(call, h, c)
                    : h.is<bfloat16>(3) ? step<bfloat16>(call, h, c)
                                        : nothing();
    return out == nullptr || out == Py_None ? out : with_versions(out, call);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

// setup(torch.Tensor, torch.nn.Parameter, guards, mark_changed) -> whether step() can be used with this
// torch. guards: a tuple of (function, its argument or None, answer).
PyObject* setup(PyObject*, PyObject* args) {
  PyObject *tensor, *parameter, *asked, *mark;
  if (!PyArg_ParseTuple(args, "OOO!O", &tensor, &parameter, &PyTuple_Type, &asked, &mark))
    return nullptr;
  PyObject* capsule = PyObject_GetAttrString(tensor, "__dlpack_c_exchange_api__");
  const void* table =
      capsule == nullptr ? nullptr : PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  PyErr_Clear();
  Py_XDECREF(capsule);
  const auto* api = static_cast<const DLPackExchangeAPI*>(table);
  if (api == nullptr || api->header.version.major != DLPACK_MAJOR_VERSION ||
      api->dltensor_from_py_object_no_sync == nullptr)
    Py_RETURN_FALSE;
  Py_INCREF(tensor);  // for as long as the process lives, as the table does
  Py_INCREF(parameter);
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor);
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter);
  is_neg = PyObject_GetAttrString(tensor, "is_neg");
  if (is_neg == nullptr) return nullptr;
  Py_INCREF(mark);
  mark_changed = mark;
  guards.clear();
  for (Py_ssize_t k = 0; k < PyTuple_Size(asked); ++k) {
    Guard guard;
    if (!PyArg_ParseTuple(PyTuple_GetItem(asked, k), "OOO", &guard.ask, &guard.argument,
                          &guard.answer))
      return nullptr;
    if (guard.argument == Py_None) guard.argument = nullptr;
    guards.push_back(guard);
  }
  Py_INCREF(asked);  // which holds them all
  exchange = api;
  Py_RETURN_TRUE;
}

PyMethodDef methods[] = {
    {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(step_entry)), METH_FASTCALL,
     "A stack in place on its state: (y, (h_n, c_n)), or None without any effect."},
    {"setup", setup, METH_VARARGS, "Takes the tensor types; whether step() can be used."},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_C",
                      "The compiled library of stateful_lstm.",
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace
}  // namespace stateful_lstm

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&stateful_lstm::module); }
