// The project's CUDA kernels as a Python module over numpy arrays: tests/cuda/test_cuda_kernels.py.
//
// Python owns all arrays, and fills outputs and scratch with NaN. 16-bit numbers are passed as uint16.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda/launcher.h"
#include "cuda/select_kernel.h"

#if !defined(LSTM_MODULE)
#define LSTM_MODULE kernels
#endif

namespace py = pybind11;
using namespace stateful_lstm;
using namespace stateful_lstm::cuda;

namespace {

// Sets a pointer to the array of the call of this name, or to null if it is None or missing.
template <class T>
void set(T*& field, const py::dict& arrays, const char* name) {
  field = nullptr;
  if (!arrays.contains(name) || arrays[name].is_none()) return;
  auto found = py::cast<py::array>(arrays[name]);
  if (found.itemsize() != sizeof(T) || !(found.flags() & py::array::c_style))
    throw py::type_error(std::string(name) + " has the wrong type or is not dense");
  field = static_cast<T*>(const_cast<void*>(found.data()));
}
template <class T>
void set_number(T& field, const py::dict& sizes, const char* name) {
  field = static_cast<T>(py::cast<int64_t>(sizes[name]));
}
#define ARRAY(field) set(p.field, arrays, #field)
#define NUMBER(field) set_number(p.field, sizes, #field)

template <class S>
void fill(SequenceParams<S>& p, const py::dict& sizes, const py::dict& arrays) {
  NUMBER(T), NUMBER(B), NUMBER(H), NUMBER(P), NUMBER(reverse);
  ARRAY(weight_hh), ARRAY(weight_hr), ARRAY(c0);
  ARRAY(reset), ARRAY(lengths), ARRAY(recurrent_mask);
}

template <class S>
ForwardArgs<S> forward_args(const py::dict& sizes, const py::dict& arrays) {
  ForwardArgs<S> p = {};
  fill<S>(p, sizes, arrays);
  ARRAY(gates_x), ARRAY(bias_ih), ARRAY(bias_hh), ARRAY(h0);
  ARRAY(y), ARRAY(h_n), ARRAY(c_n), ARRAY(gates), ARRAY(cells);
  ARRAY(h), ARRAY(c), ARRAY(hidden);
  return p;
}

template <class S>
BackwardArgs<S> backward_args(const py::dict& sizes, const py::dict& arrays) {
  BackwardArgs<S> p = {};
  fill<S>(p, sizes, arrays);
  ARRAY(grad_y), ARRAY(grad_h_n), ARRAY(grad_c_n), ARRAY(gates), ARRAY(cells);
  ARRAY(grad_gates), ARRAY(grad_h0), ARRAY(grad_c0), ARRAY(grad_hidden);
  ARRAY(dh), ARRAY(dc);
  return p;
}

template <class S>
InferenceStepArgs<S> step_args(const py::dict& sizes, const py::dict& arrays) {
  InferenceStepArgs<S> p = {};
  NUMBER(B), NUMBER(I), NUMBER(H), NUMBER(P), NUMBER(slots), NUMBER(from_zero);
  p.x_stride = p.I;
  p.y_stride = p.P;
  ARRAY(weight_ih), ARRAY(weight_hh), ARRAY(bias_ih), ARRAY(bias_hh), ARRAY(weight_hr);
  ARRAY(x), ARRAY(rows), ARRAY(reset), ARRAY(h), ARRAY(c);
  ARRAY(y), ARRAY(h_n), ARRAY(c_n), ARRAY(hidden);
  return p;
}
#undef ARRAY
#undef NUMBER

// The plan of a call: kernel, variant, blocks, threads, shared bytes, cluster, cooperative.
template <class S>
py::tuple plan(const CallSpec& call, const DeviceLimits& device) {
  const Plan chosen = choose<S>(call, device);
  const Candidate<S>& candidate = candidates<S>()[chosen.candidate];
  const Grid& grid = chosen.grid;
  return py::make_tuple(name_of(candidate.kernel), candidate.variant, grid.blocks, grid.threads,
                        grid.shared_bytes, grid.cluster, grid.cooperative);
}
CallSpec call_of(const py::tuple& t) {
  const auto size = [&](int n) { return py::cast<int64_t>(t[n]); };
  return {size(0), size(1), size(2), size(3), size(4) != 0, size(5) != 0};
}
DeviceLimits device_of(const py::tuple& t) {
  const auto size = [&](int n) { return py::cast<int64_t>(t[n]); };
  return {int(size(0)), int(size(1)), size(2), int(size(3))};
}
// Calls f with a value of the type that the name says.
template <class F>
auto by_name(const std::string& dtype, const F& f) {
  if (dtype == "float32") return f(float());
  if (dtype == "float64") return f(double());
  if (dtype == "float16") return f(Half());
  return f(Bfloat16());
}

using Run = std::function<void(const py::dict&, const py::dict&, const Stream&)>;
std::map<std::string, Run> runs;  // by "kernel type product"

// All candidates of a type.
template <class S>
void add_all(const std::string& dtype) {
  for (const Candidate<S>& each : candidates<S>()) {
    const std::string names = std::string(name_of(each.kernel)) + " " + dtype + " " + each.variant;
    runs["forward_" + names] = [&each](const py::dict& sizes, const py::dict& arrays,
                                       const Stream& s) {
      const auto p = forward_args<S>(sizes, arrays);
      const Grid grid = each.grid({p.T, p.B, p.H, p.P, true, false});
      std::vector<uint32_t> workspace(grid.workspace);
      each.forward(p, grid, workspace.data(), s);
    };
    runs["backward_" + names] = [&each](const py::dict& sizes, const py::dict& arrays,
                                        const Stream& s) {
      const auto p = backward_args<S>(sizes, arrays);
      const Grid grid = each.grid({p.T, p.B, p.H, p.P, true, true});
      std::vector<uint32_t> workspace(grid.workspace);
      each.backward(p, grid, workspace.data(), s);
    };
    if (each.step != nullptr)
      runs["inference_step " + dtype + " " + each.variant] =
          [&each](const py::dict& sizes, const py::dict& arrays, const Stream& s) {
            each.step(step_args<S>(sizes, arrays), s);
          };
  }
}

}  // namespace

PYBIND11_MODULE(LSTM_MODULE, module) {
  add_all<float>("float32");
  add_all<double>("float64");
  add_all<Half>("float16");
  add_all<Bfloat16>("bfloat16");

  module.def("run", [](const std::string& name, const py::dict& sizes, const py::dict& arrays,
                       uint64_t seed) {
    const auto found = runs.find(name);
    if (found == runs.end()) throw py::key_error(name);
    Stream stream;
    stream.seed = seed;
    found->second(sizes, arrays, stream);
  });
  module.def("plan", [](const std::string& dtype, const py::tuple& call, const py::tuple& device) {
    return by_name(dtype,
                   [&](auto x) { return plan<decltype(x)>(call_of(call), device_of(device)); });
  });
  module.def(
      "explain", [](const std::string& dtype, const py::tuple& call, const py::tuple& device) {
        return by_name(
            dtype, [&](auto x) { return explain<decltype(x)>(call_of(call), device_of(device)); });
      });
  module.def("read_slots", [](py::array_t<int64_t> indices, int64_t slots, uint64_t seed) {
    const int64_t B = indices.size();
    py::array_t<int64_t> rows(B);
    py::array_t<int32_t> taken(slots);
    uint32_t error = 0;
    Stream stream;
    stream.seed = seed;
    launch(read_slots<int64_t>, Grid{1, 64, 0}, stream, indices.data(), B, slots,
           rows.mutable_data(), taken.mutable_data(), &error);
    return py::make_tuple(rows, error);
  });
  module.def("names", [] {
    py::list names;
    for (const auto& each : runs) names.append(each.first);
    return names;
  });
}
