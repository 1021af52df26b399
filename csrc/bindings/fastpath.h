// What the fast paths share: views of Python's tensors and new tensors, through DLPack's exchange table, past torch's
// dispatcher. fastpath_module.cpp finds the table.
//
// To call an operator takes longer than to compute a small layer. Here tensors come as Python objects, and the table,
// which torch fills, tells where they lie. Nothing stays from call to call: each call reads pointers, shapes and
// strides. An unusual argument is answered with None and no effect; the caller then takes the regular path, which
// says what is wrong.
#pragma once
#undef TORCH_TARGET_VERSION  // the next header is DLPack's own, which has an ABI of its own
#define Py_LIMITED_API 0x030A0000
#include <ATen/dlpack.h>
#include <Python.h>

#include <cstdint>
#include <exception>

#include "bindings/tensor_view.h"
#include "params.h"
#include "runtime/scratch_memory.h"

namespace stateful_lstm::python {

extern const DLPackExchangeAPI* exchange;  // null: this torch has none, or setup() was not called
extern PyTypeObject *tensor_type, *parameter_type;

// Whether torch is in none of the modes in which it must see the operator: asks what setup() was given. The callers in
// Python have looked at grad mode and autocast.
bool no_mode_watches();
// Whether a backward pass runs in this thread.
bool runs_in_backward_pass();

inline PyObject* nothing() { Py_RETURN_NONE; }

template <class T>
constexpr DLDataType kType = {};
template <>
constexpr DLDataType kType<float> = {kDLFloat, 32, 1};
template <>
constexpr DLDataType kType<double> = {kDLFloat, 64, 1};
template <>
constexpr DLDataType kType<bfloat16> = {kDLBfloat, 16, 1};

// Whether the tensor's numbers mean their negatives, as those of a conjugated tensor's imaginary part do. DLPack does
// not tell.
bool is_negative_view(PyObject* tensor);

// Whether the storage of the tensor was freed. Its address is then its offset in the storage.
bool is_freed(PyObject* tensor, const DLTensor& view);

// A view of a plain CPU tensor; not `given` for any other object. It may be negative (is_negative_view).
TensorView view_of(PyObject* object);

// The fast paths' checker: answers false where an argument does not fit.
inline Checker refusing_checker() { return {Device{}, Checker::Misfit::refuse}; }

// Calls f with a value of the C++ type of h or of the weights. An exception becomes Python's RuntimeError.
template <class F>
PyObject* by_dtype(const TensorView& x, const F& f) {
  try {
    switch (x.dtype) {
      case Dtype::float32:
        return f(float{});
      case Dtype::float64:
        return f(double{});
      case Dtype::bfloat16:
        return f(bfloat16{});
      default:
        return nothing();
    }
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

// A new tensor: its description for DLPack, and its memory, which goes back to the pool where `pooled`. It belongs to
// the caller until to_python() takes it.
struct Output {
  DLManagedTensorVersioned managed = {};
  int64_t shape[3], strides[3];
  Block block;
  bool pooled = false;

  ~Output();
  template <class S>
  S* data() const {
    return static_cast<S*>(block.get());
  }
};
Output* new_output(DLDataType type, bool pooled, int dims, const int64_t* shape);
template <class S, class... Sizes>
Output* new_output(bool pooled, Sizes... sizes) {
  const int64_t shape[] = {int64_t(sizes)...};
  return new_output(kType<S>, pooled, sizeof...(sizes), shape);
}

// The outputs of one call. It deletes those that Python has not taken.
template <int most>
class Outputs {
 public:
  Outputs() = default;
  Outputs(const Outputs&) = delete;
  Outputs& operator=(const Outputs&) = delete;
  ~Outputs() {
    for (Output* each : made_) delete each;
  }
  Output& add(Output* output) { return *(made_[count_++] = output); }
  // A new Python object for output k; null with an error set.
  PyObject* to_python(int k) {
    Output* output = made_[k];
    made_[k] = nullptr;  // torch owns it, also after an error
    void* object = nullptr;
    if (exchange->managed_tensor_to_py_object_no_sync(&output->managed, &object) != 0)
      return nullptr;
    return static_cast<PyObject*>(object);
  }

 private:
  Output* made_[most] = {};
  int count_ = 0;
};

// While it lives, other Python threads may run. `work`: multiply-adds; for few of them it does nothing.
class Released {
 public:
  explicit Released(int64_t work) {
    constexpr int64_t kWork = 1 << 16;  // some microseconds
    if (work > kWork) python_ = PyEval_SaveThread();
  }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;
  ~Released() {
    if (python_ != nullptr) PyEval_RestoreThread(python_);
  }

 private:
  PyThreadState* python_ = nullptr;
};

// The functions of the module; their arguments: stateful_lstm/_C.pyi.
PyObject* step(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* forward(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* gradients(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* first_freed(PyObject*, PyObject* tensors);
extern PyObject* mark_changed;  // bumps the versions of a tuple's tensors

}  // namespace stateful_lstm::python
