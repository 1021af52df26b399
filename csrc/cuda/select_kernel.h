// Which kernel a call gets, and why: one small decision on the host, from sizes, type and device alone.
//
// The kernels are asked in turn, those that wait least for each other first, each in all the ways to multiply
// that are built for the type; the first that fits the device and the call is taken. steps.h fits all.
#pragma once
#include <string>
#include <vector>

#include "cuda/run_cluster.h"
#include "cuda/run_grid.h"
#include "cuda/run_resident.h"
#include "cuda/run_slices.h"
#include "cuda/run_small.h"

namespace stateful_lstm::cuda {

// One kernel in one way to multiply.
template <class S>
struct Candidate {
  const char* kernel;
  const char* way;
  int rows;  // of a block's tile
  bool tensor;
  Grid (*grid)(const Call&);
  void (*forward)(const Forward<S>&, uint32_t* counts, const Stream&);
  void (*backward)(const Backward<S>&, uint32_t* counts, const Stream&);
  void (*step)(const ResidentStep<S>&, const Stream&);  // of "steps" only
};

template <class S>
struct Plan {
  const Candidate<S>* candidate;
  Grid grid;
  std::string why;  // a sentence
};

// Why a candidate is not for this call on this device; empty: it is.
template <class S>
std::string objection(const Candidate<S>& candidate, const Call& call, const Device& device) {
  const std::string kernel = candidate.kernel;
  const bool halves = sizeof(S) == sizeof(uint16_t), floats = sizeof(S) == sizeof(float);
  const bool tensor = device.arch >= 80 && (halves || (floats && call.tf32));
  if (candidate.tensor && !tensor)
    return device.arch < 80 ? "no tensor cores for it" : "TF32 is not allowed";
  if (!candidate.tensor && tensor) return "tensor cores are there";
  if (candidate.rows > 16 && call.B <= 16) return "too few rows for its tile";
  if (kernel == "steps") return "";
  if (call.P != call.H) return "there is a projection";
  const Grid grid = candidate.grid(call);
  if (grid.shared_bytes > device.shared_bytes)
    return "a block needs " + std::to_string(grid.shared_bytes) + " bytes of shared memory, " +
           std::to_string(device.shared_bytes) + " are there";
  if (kernel == "small" && (call.H > 128 || grid.cluster > 1))
    return "H is above " + std::to_string(call.H > 128 ? 128 : 64);
  if (kernel == "cluster" && device.arch < 90) return "no clusters of blocks";  // nor code for it
  if (kernel == "cluster" && grid.cluster > device.cluster_blocks)
    return "a cluster of " + std::to_string(grid.cluster) + " blocks, " +
           std::to_string(device.cluster_blocks) + " at most";
  if (kernel == "grid" && grid.blocks > device.processors)
    return std::to_string(grid.blocks) + " blocks must be resident, on " +
           std::to_string(device.processors) + " SMs";
  return "";
}

// All that are built for a type, in the order in which they are asked.
template <class S>
const std::vector<Candidate<S>>& candidates();

template <class S>
Plan<S> choose(const Call& call, const Device& device) {
  std::string before;
  for (const Candidate<S>& candidate : candidates<S>()) {
    const std::string no = objection(candidate, call, device);
    if (no.empty())
      return {&candidate, candidate.grid(call),
              std::string(candidate.kernel) + ", " + candidate.way +
                  (before.empty() ? "" : "; before it " + before)};
    before += (before.empty() ? "" : "; ") + std::string(candidate.kernel) + ", " + candidate.way +
              ": " + no;
  }
  return {nullptr, {}, before};  // cannot be: steps fits all
}

}  // namespace stateful_lstm::cuda
