// A view of a tensor for both front ends of C++, operators and fast paths, and their one checker of arguments. It
// knows neither torch nor Python: operators.h and fastpath.h make the views.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "params.h"

namespace stateful_lstm {

enum class Dtype : uint8_t { other, boolean, int32, int64, float16, bfloat16, float32, float64 };

inline const char* name_of(Dtype dtype) {
  constexpr const char* kNames[] = {"another dtype", "bool",     "int32",   "int64",
                                    "float16",       "bfloat16", "float32", "float64"};
  return kNames[int(dtype)];
}

template <class T>
constexpr Dtype kDtype = Dtype::other;
template <>
constexpr Dtype kDtype<bool> = Dtype::boolean;
template <>
constexpr Dtype kDtype<int32_t> = Dtype::int32;
template <>
constexpr Dtype kDtype<int64_t> = Dtype::int64;
template <>
constexpr Dtype kDtype<bfloat16> = Dtype::bfloat16;
template <>
constexpr Dtype kDtype<float> = Dtype::float32;
template <>
constexpr Dtype kDtype<double> = Dtype::float64;

// Where a tensor lies: torch's numbers for a kind of device and for one device of that kind.
struct Device {
  int32_t type = 0, index = -1;  // the CPU
};

// A tensor at the time of a call. The tensor owns its memory and its sizes, and outlives the view.
struct TensorView {
  bool given = false;      // an optional argument may be absent
  bool allocated = false;  // false: its storage was freed, as FSDP does between calls
  Dtype dtype = Dtype::other;
  Device device;
  int dims = 0;
  const int64_t *sizes = nullptr, *strides = nullptr;
  void* data = nullptr;

  int64_t size(int dim) const { return sizes[dim]; }
  int64_t stride(int dim) const { return strides[dim]; }
  bool has_shape(std::initializer_list<int64_t> shape) const {
    if (dims != int(shape.size())) return false;
    for (int d = 0; d < dims; ++d)
      if (sizes[d] != shape.begin()[d]) return false;
    return true;
  }
  bool is_dense() const {
    bool dense = true;
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; --d) {
      dense &= sizes[d] == 1 || strides[d] == step;
      step *= sizes[d];
    }
    return dense || step == 0;  // without elements any strides will do
  }
  // The tensor's bytes, from `begin` to `end`: strides are never negative.
  const char* begin() const { return static_cast<const char*>(data); }
  const char* end(int64_t element_size) const {
    int64_t last = 0;
    for (int d = 0; d < dims; ++d) {
      if (sizes[d] == 0) return begin();
      last += (sizes[d] - 1) * strides[d];
    }
    return begin() + (last + 1) * element_size;
  }
  // The same elements without a first dimension of size 1.
  TensorView without_first() const {
    TensorView rest = *this;
    if (dims > 0 && sizes[0] == 1) {
      --rest.dims;
      ++rest.sizes;
      ++rest.strides;
    }
    return rest;
  }
};

inline std::string text_of(const int64_t* sizes, int dims) {
  std::ostringstream out;
  out << "(";
  for (int d = 0; d < dims; ++d) out << (d == 0 ? "" : ", ") << sizes[d];
  out << ")";
  return out.str();
}
inline std::string text_of(const TensorView& x) { return text_of(x.sizes, x.dims); }

// Checks the arguments of a call. An operator's checker raises an error with the expected and the given value. A fast
// path's checker answers false and builds no text; the fast path's caller then takes the regular path.
class Checker {
 public:
  enum class Misfit { raise, refuse };
  Checker(const Device& device, Misfit misfit) : device_(device), misfit_(misfit) {}

  // Whether `condition` holds; `message` makes the words of the error.
  template <class F>
  bool require(bool condition, const F& message, const char* function = __builtin_FUNCTION(),
               const char* file = __builtin_FILE(), int line = __builtin_LINE()) const {
    if (condition || misfit_ == Misfit::refuse) return condition;
    std::ostringstream out;
    const std::string whole = function;  // of a template with its arguments
    out << whole.substr(0, whole.find_first_of("<(")) << ", " << file << ":" << line << ", "
        << message();
    throw std::runtime_error(out.str());
  }

  // Whether x is a tensor of type T that can be read on the call's device.
  template <class T>
  bool is(const TensorView& x, const char* name) const {
    return require(x.device.type == device_.type && x.device.index == device_.index,
                   [&] {
                     const bool cpu = device_.index < 0;
                     return std::string(name) + " must be on " +
                            (cpu ? "the CPU" : "CUDA device " + std::to_string(device_.index));
                   }) &&
           require(x.given && x.dtype == kDtype<T>,
                   [&] {
                     return std::string(name) + " has the wrong dtype: expected " +
                            name_of(kDtype<T>) + ", got " + name_of(x.dtype);
                   }) &&
           require(x.allocated,
                   [&] { return std::string(name) + " has no memory: its storage was freed"; });
  }
  // The same, with this shape.
  template <class T>
  bool is(const TensorView& x, std::initializer_list<int64_t> shape, const char* name) const {
    return is<T>(x, name) && require(x.has_shape(shape), [&] {
             return std::string(name) + " must have shape " +
                    text_of(shape.begin(), int(shape.size())) + ", got " + text_of(x);
           });
  }
  // Sets `to` to the numbers of a dense tensor of this shape.
  template <class T>
  bool fill(T*& to, const TensorView& x, std::initializer_list<int64_t> shape,
            const char* name) const {
    to = static_cast<T*>(x.data);
    return is<std::remove_const_t<T>>(x, shape, name) &&
           require(x.is_dense(), [&] { return std::string(name) + " must be contiguous"; });
  }
  // The same; null where the argument is absent.
  template <class T>
  bool fill_optional(T*& to, const TensorView& x, std::initializer_list<int64_t> shape,
                     const char* name) const {
    to = nullptr;
    return !x.given || fill(to, x, shape, name);
  }

 private:
  Device device_;
  Misfit misfit_;
};

}  // namespace stateful_lstm
