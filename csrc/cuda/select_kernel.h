// Selects the kernel of a call on the host, from sizes, type and device alone.
//
// The candidates are tried in order, those whose blocks wait least for each other first, each kernel in all variants
// that are built for the type; the first one that fits the device and the call is taken. per_step fits every call.
// A plan is a few numbers. Text is built only by explain().
#pragma once
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/inference_step_gemv.h"
#include "cuda/instances/list.h"
#include "cuda/per_step.h"
#include "cuda/persistent/block_simt.h"
#include "cuda/persistent/cluster_simt.h"
#include "cuda/persistent/grid_simt.h"
#include "cuda/persistent/tensor_core.h"

namespace stateful_lstm::cuda {

enum class Kernel { persistent_block, persistent_cluster, persistent_grid, per_step };

// One kernel in one variant.
template <class S>
struct Candidate {
  Kernel kernel;
  const char* variant;
  int rows;  // of a block's tile
  bool tensor_cores;
  Grid (*grid)(const CallSpec&);
  void (*forward)(const ForwardArgs<S>&, const Grid&, uint32_t* workspace, const Stream&);
  void (*backward)(const BackwardArgs<S>&, const Grid&, uint32_t* workspace, const Stream&);
  void (*step)(const InferenceStepArgs<S>&, const Stream&);  // of per_step only, else null
};

// ---- the candidates of a type --------------------------------------------------------------------

template <class S>
std::vector<Candidate<S>> list_candidates() {
  std::vector<Candidate<S>> list;
#define LSTM_ADD(Type, ...) \
  if constexpr (std::is_same_v<S, Type>) list.push_back(LSTM_CANDIDATE(#__VA_ARGS__, __VA_ARGS__));
#define LSTM_OF(kernel, step, name, ...)                 \
  Candidate<S>{Kernel::kernel,                           \
               name,                                     \
               __VA_ARGS__::kRows,                       \
               __VA_ARGS__::kTensorCores,                \
               kernel##_grid<S, __VA_ARGS__>,            \
               launch_forward_##kernel<S, __VA_ARGS__>,  \
               launch_backward_##kernel<S, __VA_ARGS__>, \
               step}
#define LSTM_TENSOR_CORE(kernel, name, ...)                 \
  Candidate<S>{Kernel::kernel,                              \
               name,                                        \
               __VA_ARGS__::ForwardTile::kRows,             \
               true,                                        \
               tensor_core_grid_of<S, __VA_ARGS__>,         \
               launch_forward_tensor_core<S, __VA_ARGS__>,  \
               launch_backward_tensor_core<S, __VA_ARGS__>, \
               nullptr}
#define LSTM_CANDIDATE(...) LSTM_TENSOR_CORE(persistent_block, __VA_ARGS__)
  LSTM_BLOCKS(LSTM_ADD)
#undef LSTM_CANDIDATE
#define LSTM_CANDIDATE(...) LSTM_TENSOR_CORE(persistent_cluster, __VA_ARGS__)
  LSTM_CLUSTERS(LSTM_ADD)
#undef LSTM_CANDIDATE
#define LSTM_CANDIDATE(...) LSTM_TENSOR_CORE(persistent_grid, __VA_ARGS__)
  LSTM_GRIDS(LSTM_ADD)
#undef LSTM_CANDIDATE
#define LSTM_CANDIDATE(...) LSTM_OF(persistent_block, nullptr, __VA_ARGS__)
  LSTM_SIMT(LSTM_ADD)
#undef LSTM_CANDIDATE
#define LSTM_CANDIDATE(...) LSTM_OF(persistent_cluster, nullptr, __VA_ARGS__)
  LSTM_SIMT(LSTM_ADD)
#undef LSTM_CANDIDATE
#define LSTM_CANDIDATE(...) LSTM_OF(persistent_grid, nullptr, __VA_ARGS__)
  LSTM_SIMT(LSTM_ADD)
#undef LSTM_CANDIDATE
#define LSTM_CANDIDATE(name, ...) \
  LSTM_OF(per_step, (launch_inference_step<S, __VA_ARGS__>), name, __VA_ARGS__)
  LSTM_TENSOR(LSTM_ADD)
  LSTM_SIMT(LSTM_ADD)
#undef LSTM_CANDIDATE
#undef LSTM_TENSOR_CORE
#undef LSTM_OF
#undef LSTM_ADD
  return list;
}

// All that are built, in the order in which they are tried. Instantiated in launcher.cu.
template <class S>
const std::vector<Candidate<S>>& candidates() {
  static const std::vector<Candidate<S>> all = list_candidates<S>();
  return all;
}
extern template const std::vector<Candidate<float>>& candidates<float>();
extern template const std::vector<Candidate<double>>& candidates<double>();
extern template const std::vector<Candidate<Half>>& candidates<Half>();
extern template const std::vector<Candidate<Bfloat16>>& candidates<Bfloat16>();

// ---- the choice ----------------------------------------------------------------------------------

// Why a candidate does not fit.
enum class Refusal {
  none,
  no_tensor_cores,
  no_tf32,
  tensor_cores_available,
  few_rows,
  projection,
  shared_memory,
  units,
  no_clusters,
  cluster_size,
  block_count
};

constexpr int64_t kMostBlockUnits = 128;  // H of persistent_block

template <class S>
Refusal refusal(const Candidate<S>& candidate, const CallSpec& call, const DeviceLimits& device) {
  const bool halves = sizeof(S) == sizeof(uint16_t), floats = sizeof(S) == sizeof(float);
  const bool tensor_cores = device.arch >= 80 && (halves || (floats && call.tf32));
  if (candidate.tensor_cores && !tensor_cores)
    return device.arch < 80 ? Refusal::no_tensor_cores : Refusal::no_tf32;
  if (!candidate.tensor_cores && tensor_cores) return Refusal::tensor_cores_available;
  if (candidate.rows > 16 && call.B <= 16) return Refusal::few_rows;
  if (candidate.kernel == Kernel::per_step) return Refusal::none;
  if (call.P != call.H) return Refusal::projection;
  const Grid grid = candidate.grid(call);
  if (grid.shared_bytes > device.shared_bytes) return Refusal::shared_memory;
  switch (candidate.kernel) {
    case Kernel::persistent_block:  // more than one block: H is above the variant's units
      return call.H > kMostBlockUnits || grid.cluster > 1 ? Refusal::units : Refusal::none;
    case Kernel::persistent_cluster:
      if (device.arch < 90) return Refusal::no_clusters;  // it is not compiled there either
      return grid.cluster > device.cluster_blocks ? Refusal::cluster_size : Refusal::none;
    default:
      return grid.blocks > device.processors ? Refusal::block_count : Refusal::none;
  }
}

// The first candidate that fits; with `step` the first one that has an inference step.
template <class S>
Plan first_fit(const CallSpec& call, const DeviceLimits& device, bool step) {
  const std::vector<Candidate<S>>& all = candidates<S>();
  for (size_t k = 0; k < all.size(); ++k)
    if (!(step && all[k].step == nullptr) && refusal(all[k], call, device) == Refusal::none)
      return {int(k), all[k].grid(call)};
  throw std::runtime_error("stateful_lstm: no CUDA kernel is built for this type");
}

// ---- text ----------------------------------------------------------------------------------------

inline const char* name_of(Kernel kernel) {
  constexpr const char* kNames[] = {"persistent_block", "persistent_cluster", "persistent_grid",
                                    "per_step"};
  return kNames[int(kernel)];
}

template <class S>
std::string text_of(Refusal reason, const Candidate<S>& candidate, const CallSpec& call,
                    const DeviceLimits& device) {
  const Grid grid = candidate.grid(call);
  const auto number = [](int64_t n) { return std::to_string(n); };
  switch (reason) {
    case Refusal::no_tensor_cores:
      return "the device has no tensor cores for this type";
    case Refusal::no_tf32:
      return "TF32 is not allowed";
    case Refusal::tensor_cores_available:
      return "tensor cores are available";
    case Refusal::few_rows:
      return "too few rows for its tile";
    case Refusal::projection:
      return "it takes no projection";
    case Refusal::shared_memory:
      return "a block needs " + number(grid.shared_bytes) +
             " bytes of shared memory, the limit is " + number(device.shared_bytes);
    case Refusal::units:
      return "H is above " + number(call.H > kMostBlockUnits ? kMostBlockUnits : 64);
    case Refusal::no_clusters:
      return "the device has no clusters of blocks";
    case Refusal::cluster_size:
      return "it needs a cluster of " + number(grid.cluster) + " blocks, the limit is " +
             number(device.cluster_blocks);
    case Refusal::block_count:
      return number(grid.blocks) + " blocks must run at once, the device has " +
             number(device.processors) + " SMs";
    default:
      return "";
  }
}

}  // namespace stateful_lstm::cuda
