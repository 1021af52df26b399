// The Python module `_C`: the fast paths, past torch's dispatcher. What they share: fastpath.h.
#include "bindings/fastpath.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/backward_pass.h"

namespace stateful_lstm::python {

const DLPackExchangeAPI* exchange = nullptr;
PyTypeObject *tensor_type = nullptr, *parameter_type = nullptr;
PyObject* mark_changed = nullptr;

namespace {

// Methods of torch.Tensor.
PyObject *is_neg = nullptr, *storage_offset = nullptr, *is_zerotensor = nullptr;

// A question that Python is asked before a fast path, and the answer that allows it.
struct Guard {
  PyObject *ask, *answer;
};
std::vector<Guard> guards;

// torch's function for the number of the backward pass that runs in this thread, or -1.
PyObject* backward_pass = nullptr;

// For an operator, which runs without Python's lock.
bool operator_runs_in_backward_pass() {
  const PyGILState_STATE lock = PyGILState_Ensure();
  const bool runs = runs_in_backward_pass();
  PyGILState_Release(lock);
  return runs;
}

void free_output(DLManagedTensorVersioned* managed) {
  delete static_cast<Output*>(managed->manager_ctx);
}

}  // namespace

bool no_mode_watches() {
  for (const Guard& guard : guards) {
    PyObject* answer = PyObject_CallNoArgs(guard.ask);
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

bool runs_in_backward_pass() {
  PyObject* number = PyObject_CallNoArgs(backward_pass);
  const bool runs = number != nullptr && PyLong_AsLong(number) != -1;
  PyErr_Clear();
  Py_XDECREF(number);
  return runs;
}

namespace {
Dtype dtype_of(const DLDataType& type) {
  switch (type.code) {
    case kDLFloat:
      return type.bits == 32   ? Dtype::float32
             : type.bits == 64 ? Dtype::float64
             : type.bits == 16 ? Dtype::float16
                               : Dtype::other;
    case kDLBfloat:
      return type.bits == 16 ? Dtype::bfloat16 : Dtype::other;
    case kDLBool:
      return type.bits == 8 ? Dtype::boolean : Dtype::other;
    case kDLInt:
      return type.bits == 32 ? Dtype::int32 : type.bits == 64 ? Dtype::int64 : Dtype::other;
    default:
      return Dtype::other;
  }
}

// The answer of one of these methods; if it fails, true.
bool says_yes(PyObject* method, PyObject* tensor) {
  PyObject* answer = PyObject_CallFunctionObjArgs(method, tensor, nullptr);
  PyErr_Clear();
  Py_XDECREF(answer);
  return answer != Py_False;
}
}  // namespace

bool is_negative_view(PyObject* tensor) { return says_yes(is_neg, tensor); }

bool is_freed(PyObject* tensor, const DLTensor& view) {
  constexpr uintptr_t kOffsets = uintptr_t{1} << 40;  // bytes: no storage has larger ones
  const auto address = reinterpret_cast<uintptr_t>(view.data);
  if (address >= kOffsets) return false;  // mostly: nothing is asked then
  PyObject* answer = PyObject_CallFunctionObjArgs(storage_offset, tensor, nullptr);
  const auto offset = answer == nullptr ? 0 : PyLong_AsUnsignedLongLong(answer);
  PyErr_Clear();
  Py_XDECREF(answer);
  return answer == nullptr || address == offset * (view.dtype.bits / 8);
}

TensorView view_of(PyObject* object) {
  TensorView view;
  if (object == nullptr || (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type))
    return view;
  DLTensor found = {};
  if (exchange->dltensor_from_py_object_no_sync(object, &found) != 0) {
    PyErr_Clear();
    return view;
  }
  if (found.device.device_type != kDLCPU || found.data == nullptr || found.dtype.lanes != 1)
    return view;
  view.given = true;
  view.allocated = !is_freed(object, found);
  view.dtype = dtype_of(found.dtype);
  view.dims = found.ndim;
  view.sizes = found.shape;
  view.strides = found.strides;
  view.data = static_cast<char*>(found.data) + found.byte_offset;
  return view;
}

// first_freed(tuple) -> the place of the first tensor whose storage was freed, or -1. Other objects are passed over.
PyObject* first_freed(PyObject*, PyObject* tensors) {
  if (!PyTuple_Check(tensors)) {
    PyErr_SetString(PyExc_TypeError, "first_freed() takes a tuple");
    return nullptr;
  }
  for (Py_ssize_t k = 0; k < PyTuple_Size(tensors); ++k) {
    PyObject* object = PyTuple_GetItem(tensors, k);
    if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type) continue;
    DLTensor view = {};
    if (exchange->dltensor_from_py_object_no_sync(object, &view) != 0) {
      PyErr_Clear();  // one that has no storage, or hides it
      continue;
    }
    bool empty = false;
    for (int d = 0; d < view.ndim; ++d) empty = empty || view.shape[d] == 0;
    // A zero tensor has no memory by design.
    if (!empty && is_freed(object, view) && !says_yes(is_zerotensor, object))
      return PyLong_FromSsize_t(k);
  }
  return PyLong_FromLong(-1);
}

Output::~Output() {
  if (pooled) Pool::shared().give(std::move(block));
}

Output* new_output(DLDataType type, bool pooled, int dims, const int64_t* shape) {
  auto out = std::make_unique<Output>();
  int64_t count = 1;
  for (int d = dims - 1; d >= 0; --d) {
    out->shape[d] = shape[d];
    out->strides[d] = count;
    count *= shape[d];
  }
  const size_t bytes = count * (type.bits / 8);
  pooled = pooled && bytes >= Pool::kLeast;
  out->block = pooled ? Pool::shared().take(bytes) : Block(bytes);
  out->pooled = pooled;
  out->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  out->managed.manager_ctx = out.get();
  out->managed.deleter = free_output;
  out->managed.dl_tensor = {out->block.get(), {kDLCPU, 0}, dims, type, out->shape, out->strides, 0};
  return out.release();
}

namespace {

// setup(torch.Tensor, torch.nn.Parameter, guards, mark_changed, backward_pass) -> whether step() can be used with
// this torch. guards: a tuple of (function without arguments, answer).
PyObject* setup(PyObject*, PyObject* args) {
  PyObject *tensor, *parameter, *asked, *mark, *pass;
  if (!PyArg_ParseTuple(args, "OOO!OO", &tensor, &parameter, &PyTuple_Type, &asked, &mark, &pass))
    return nullptr;
  Py_INCREF(pass);
  backward_pass = pass;
  in_backward_pass = operator_runs_in_backward_pass;
  PyObject* capsule = PyObject_GetAttrString(tensor, "__dlpack_c_exchange_api__");
  const void* table =
      capsule == nullptr ? nullptr : PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  PyErr_Clear();
  Py_XDECREF(capsule);
  const auto* api = static_cast<const DLPackExchangeAPI*>(table);
  if (api == nullptr || api->header.version.major != DLPACK_MAJOR_VERSION ||
      api->dltensor_from_py_object_no_sync == nullptr)
    Py_RETURN_FALSE;
  Py_INCREF(tensor);  // until the process ends, as the table lives
  Py_INCREF(parameter);
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor);
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter);
  is_neg = PyObject_GetAttrString(tensor, "is_neg");
  storage_offset = PyObject_GetAttrString(tensor, "storage_offset");
  is_zerotensor = PyObject_GetAttrString(tensor, "_is_zerotensor");
  if (is_neg == nullptr || storage_offset == nullptr || is_zerotensor == nullptr) return nullptr;
  Py_INCREF(mark);
  mark_changed = mark;
  guards.clear();
  for (Py_ssize_t k = 0; k < PyTuple_Size(asked); ++k) {
    Guard guard;
    if (!PyArg_ParseTuple(PyTuple_GetItem(asked, k), "OO", &guard.ask, &guard.answer))
      return nullptr;
    guards.push_back(guard);
  }
  Py_INCREF(asked);  // which holds them all
  exchange = api;
  Py_RETURN_TRUE;
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}
PyMethodDef methods[] = {
    {"step", fast(step), METH_FASTCALL,
     "A stack in place on its state: (y, (h_n, c_n)), or None without any effect."},
    {"forward", fast(forward), METH_FASTCALL,
     "A layer: (y, h_n, c_n), with gates and cells if saved; or None without any effect."},
    {"gradients", fast(gradients), METH_FASTCALL,
     "Its gradients, one for each input that wants one; or None."},
    {"first_freed", first_freed, METH_O,
     "The place of a tuple's first tensor whose storage was freed, or -1."},
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
}  // namespace stateful_lstm::python

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&stateful_lstm::python::module); }
