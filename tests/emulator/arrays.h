// Makes Python functions of the kernels' callers (toys.h, microbench_kernels.h): numpy arrays stand for pointers and
// are written in place, a seed stands for the options.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <type_traits>

#include "launch.h"

namespace py = pybind11;

namespace {

using stateful_lstm::emulator::Options;

// The Python type of an argument: an array for a pointer, a seed for the options.
template <class Argument>
struct From {
  using type = Argument;
  static Argument get(const type& value) { return value; }
};
template <class T>
struct From<T*> {
  using type = py::array;
  static T* get(type& array) {
    using Exactly = py::array_t<std::remove_const_t<T>, py::array::c_style>;
    if (!py::isinstance<Exactly>(array)) throw py::type_error("an array of another type or layout");
    if constexpr (std::is_const_v<T>)
      return static_cast<T*>(array.data());
    else
      return static_cast<T*>(array.mutable_data());
  }
};
template <>
struct From<Options> {
  using type = uint64_t;
  static Options get(type seed) {
    Options options;
    options.seed = seed;
    return options;
  }
};

template <class... Arguments>
void add(py::module_& module, const char* name, void (*function)(Arguments...)) {
  module.def(name, [function](typename From<Arguments>::type... values) {
    function(From<Arguments>::get(values)...);
  });
}

}  // namespace
