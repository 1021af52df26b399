// The project's CUDA kernels as a Python module over numpy arrays: tests/cuda/test_cuda_kernels.py.
//
// Python owns all arrays, outputs and scratch too, and fills those with NaN. 16-bit numbers come as uint16.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda/select_kernel.h"

#if !defined(LSTM_MODULE)
#define LSTM_MODULE kernels
#endif

namespace py = pybind11;
using namespace stateful_lstm;
using namespace stateful_lstm::cuda;

namespace {

// An array of the call by its name, or null if it is None or not there.
template <class T>
T* array(const py::dict& arrays, const char* name) {
  if (!arrays.contains(name) || arrays[name].is_none()) return nullptr;
  auto found = py::cast<py::array>(arrays[name]);
  if (found.itemsize() != sizeof(T) || !(found.flags() & py::array::c_style))
    throw py::type_error(std::string(name) + " has the wrong type or is not dense");
  return static_cast<T*>(const_cast<void*>(found.data()));
}
int64_t number(const py::dict& sizes, const char* name) { return py::cast<int64_t>(sizes[name]); }

template <class S>
void fill(SequenceParams<S>& p, const py::dict& sizes, const py::dict& arrays) {
  p.T = number(sizes, "T");
  p.B = number(sizes, "B");
  p.H = number(sizes, "H");
  p.P = number(sizes, "P");
  p.reverse = number(sizes, "reverse") != 0;
  p.weight_hh = array<S>(arrays, "weight_hh");
  p.weight_hr = array<S>(arrays, "weight_hr");
  p.c0 = array<Acc<S>>(arrays, "c0");
  p.reset = array<bool>(arrays, "reset");
  p.lengths = array<int64_t>(arrays, "lengths");
  p.recurrent_mask = array<S>(arrays, "recurrent_mask");
}

template <class S>
Forward<S> forward_params(const py::dict& sizes, const py::dict& arrays) {
  Forward<S> p = {};
  fill<S>(p, sizes, arrays);
  p.gates_x = array<Acc<S>>(arrays, "gates_x");
  p.bias_ih = array<S>(arrays, "bias_ih");
  p.bias_hh = array<S>(arrays, "bias_hh");
  p.h0 = array<S>(arrays, "h0");
  p.y = array<S>(arrays, "y");
  p.h_n = array<S>(arrays, "h_n");
  p.c_n = array<Acc<S>>(arrays, "c_n");
  p.gates = array<S>(arrays, "gates");
  p.cells = array<Acc<S>>(arrays, "cells");
  p.h = array<S>(arrays, "h");
  p.c = array<Acc<S>>(arrays, "c");
  p.hidden = array<Acc<S>>(arrays, "hidden");
  return p;
}

template <class S>
Backward<S> backward_params(const py::dict& sizes, const py::dict& arrays) {
  Backward<S> p = {};
  fill<S>(p, sizes, arrays);
  p.grad_y = array<S>(arrays, "grad_y");
  p.grad_h_n = array<S>(arrays, "grad_h_n");
  p.grad_c_n = array<Acc<S>>(arrays, "grad_c_n");
  p.gates = array<S>(arrays, "gates");
  p.cells = array<Acc<S>>(arrays, "cells");
  p.grad_gates = array<Acc<S>>(arrays, "grad_gates");
  p.grad_h0 = array<Acc<S>>(arrays, "grad_h0");
  p.grad_c0 = array<Acc<S>>(arrays, "grad_c0");
  p.grad_hidden = array<Acc<S>>(arrays, "grad_hidden");
  p.dh = array<Acc<S>>(arrays, "dh");
  p.dc = array<Acc<S>>(arrays, "dc");
  return p;
}

template <class S>
ResidentStep<S> step_params(const py::dict& sizes, const py::dict& arrays) {
  ResidentStep<S> p = {};
  p.B = number(sizes, "B");
  p.I = p.x_stride = number(sizes, "I");
  p.H = number(sizes, "H");
  p.P = p.y_stride = number(sizes, "P");
  p.slots = number(sizes, "slots");
  p.from_zero = number(sizes, "from_zero") != 0;
  p.weight_ih = array<S>(arrays, "weight_ih");
  p.weight_hh = array<S>(arrays, "weight_hh");
  p.bias_ih = array<S>(arrays, "bias_ih");
  p.bias_hh = array<S>(arrays, "bias_hh");
  p.weight_hr = array<S>(arrays, "weight_hr");
  p.x = array<S>(arrays, "x");
  p.rows = array<int64_t>(arrays, "rows");
  p.reset = array<bool>(arrays, "reset");
  p.h = array<S>(arrays, "h");
  p.c = array<Acc<S>>(arrays, "c");
  p.y = array<S>(arrays, "y");
  p.h_n = array<S>(arrays, "h_n");
  p.c_n = array<S>(arrays, "c_n");
  p.hidden = array<Acc<S>>(arrays, "hidden");
  return p;
}

// What the plan says of a call: kernel, way, blocks, threads, shared bytes, cluster,
// whether all blocks must be on the device at once, why.
template <class S>
py::tuple plan(const Call& call, const Device& device) {
  const Plan<S> chosen = choose<S>(call, device);
  const Grid& grid = chosen.grid;
  return py::make_tuple(chosen.candidate->kernel, chosen.candidate->way, grid.blocks, grid.threads,
                        grid.shared_bytes, grid.cluster, grid.together, chosen.why);
}

using Run = std::function<void(const py::dict&, const py::dict&, const Stream&)>;
std::map<std::string, Run> runs;  // by "kernel type product"

// All candidates of a type.
template <class S>
void add_all(const std::string& dtype) {
  for (const Candidate<S>& each : candidates<S>()) {
    const std::string names = std::string(each.kernel) + " " + dtype + " " + each.way;
    runs["forward_" + names] = [&each](const py::dict& sizes, const py::dict& arrays,
                                       const Stream& s) {
      const auto p = forward_params<S>(sizes, arrays);
      std::vector<uint32_t> counts(each.grid({p.T, p.B, p.H, p.P, true, false}).words);
      each.forward(p, counts.data(), s);
    };
    runs["backward_" + names] = [&each](const py::dict& sizes, const py::dict& arrays,
                                        const Stream& s) {
      const auto p = backward_params<S>(sizes, arrays);
      std::vector<uint32_t> counts(each.grid({p.T, p.B, p.H, p.P, true, true}).words);
      each.backward(p, counts.data(), s);
    };
    if (each.step != nullptr)
      runs["resident_step " + dtype + " " + each.way] =
          [&each](const py::dict& sizes, const py::dict& arrays, const Stream& s) {
            each.step(step_params<S>(sizes, arrays), s);
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
    const auto size = [](const py::tuple& from, int n) { return py::cast<int64_t>(from[n]); };
    const Call c = {size(call, 0), size(call, 1),      size(call, 2),
                    size(call, 3), size(call, 4) != 0, size(call, 5) != 0};
    const Device d = {int(size(device, 0)), int(size(device, 1)), size(device, 2),
                      int(size(device, 3))};
    if (dtype == "float32") return plan<float>(c, d);
    if (dtype == "float64") return plan<double>(c, d);
    if (dtype == "float16") return plan<Half>(c, d);
    return plan<Bfloat16>(c, d);
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
