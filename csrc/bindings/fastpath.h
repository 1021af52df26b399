// What the fast paths in from Python share: tensors looked at and made through DLPack's exchange table, past
// torch's dispatcher. python.cpp: the module, and how the table is found.
//
// An operator takes longer to be called than a small layer to be computed. Here the tensors come as Python
// objects, and the table, which torch fills, tells where they lie. Nothing is kept from call to call: pointers,
// shapes and strides are read anew each time. Whatever is unusual is answered with None and no effect, and
// the caller goes the regular path, which says what is wrong.
#pragma once
#undef TORCH_TARGET_VERSION  // the next header is DLPack's own, which has an ABI of its own
#define Py_LIMITED_API 0x030A0000
#include <ATen/dlpack.h>
#include <Python.h>

#include <cstdint>

#include "runtime/scratch_memory.h"
#include "params.h"

namespace stateful_lstm::python {

extern const DLPackExchangeAPI* exchange;  // null: this torch has none, or setup() was not called
extern PyTypeObject *tensor_type, *parameter_type;

// Whether torch is in no mode in which it wants to see the operator: what setup() was given is asked. A step is
// not for where a graph is made or gone through; a sequence's caller sees to the graph itself.
enum class Caller { step, sequence };
bool nobody_watches(Caller caller);

inline PyObject* nothing() { Py_RETURN_NONE; }

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

inline bool same(const DLDataType& a, const DLDataType& b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

// Whether the numbers are to be read with the other sign, which DLPack does not tell: so it is with parts
// of conjugated complex tensors.
bool is_negative_view(PyObject* tensor);

// Whether the storage of the tensor was freed, so that its address is no more than its offset in the storage.
bool is_freed(PyObject* tensor, const DLTensor& view);

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
    ok = t.device.device_type == kDLCPU && t.data != nullptr && !is_freed(object, t);
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

// A new tensor: DLPack's description of it, and its memory, which `pooled` waits for the next iteration of
// training afterwards. Belongs to the caller until to_python() has it.
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

// Outputs of one call: those not handed on go with it.
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
    made_[k] = nullptr;  // torch's, come what may
    void* object = nullptr;
    if (exchange->managed_tensor_to_py_object_no_sync(&output->managed, &object) != 0)
      return nullptr;
    return static_cast<PyObject*>(object);
  }

 private:
  Output* made_[most] = {};
  int count_ = 0;
};

// Lets other Python threads run while it lives, if the work is worth it: so many multiply-adds.
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
