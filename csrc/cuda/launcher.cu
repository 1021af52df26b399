#include "cuda/launcher.h"

#include <map>
#include <mutex>

#include "cuda/select_kernel.h"
#include "cuda/state_slots.h"
#if !defined(STATEFUL_LSTM_EMULATOR)
#include "cuda/instances/extern.h"
#endif

namespace stateful_lstm::cuda {

#if defined(STATEFUL_LSTM_EMULATOR)
const char* built_for() { return "emulator"; }
DeviceLimits emulated_limits = {90, 8, 232448, 8};
DeviceLimits limits_of(int) { return emulated_limits; }
uint32_t* error_word(int) {
  static uint32_t word = 0;
  return &word;
}
#else

#if !defined(STATEFUL_LSTM_CUDA_ARCHITECTURES)
#error "STATEFUL_LSTM_CUDA_ARCHITECTURES is missing: tools/compile_cuda.py sets it"
#endif
const char* built_for() { return STATEFUL_LSTM_CUDA_ARCHITECTURES; }

namespace {
int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "querying a property of the device");
  return value;
}
// f(device), called once for each device.
template <class T, class F>
T once(int device, const F& f) {
  static std::mutex mutex;
  static std::map<int, T> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  return found != known.end() ? found->second : known.emplace(device, f(device)).first->second;
}
}  // namespace

DeviceLimits limits_of(int device) {
  return once<DeviceLimits>(device, [](int d) -> DeviceLimits {
    const int arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor, d) +
                     attribute(cudaDevAttrComputeCapabilityMinor, d);
    constexpr int kPortable = 8;  // blocks: the cluster size that every chip with clusters supports
    return {arch, attribute(cudaDevAttrMultiProcessorCount, d),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, d), arch >= 90 ? kPortable : 1};
  });
}
uint32_t* error_word(int device) {
  return once<uint32_t*>(device, [](int) {
    // The first call may be recorded by a CUDA graph; this allocation is not part of the graph.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    check(cudaThreadExchangeStreamCaptureMode(&mode), "permitting an allocation during capture");
    void* word = nullptr;  // never freed; the same address on host and device
    const cudaError_t allocated =
        cudaHostAlloc(&word, sizeof(uint32_t), cudaHostAllocMapped | cudaHostAllocPortable);
    check(cudaThreadExchangeStreamCaptureMode(&mode), "resuming capture");
    check(allocated, "allocating the error word");
    *static_cast<uint32_t*>(word) = 0;
    return static_cast<uint32_t*>(word);
  });
}
#endif

#if defined(STATEFUL_LSTM_EMULATOR)
int64_t plans_made = 0, plans_explained = 0;
#endif

namespace {
template <class S>
Plan plan_of(const CallSpec& call, const DeviceLimits& device, bool step) {
#if defined(STATEFUL_LSTM_EMULATOR)
  ++plans_made;
#endif
  return first_fit<S>(call, device, step);
}
// Kernels count in the workspace from zero.
void clear_workspace(const Plan& plan, uint32_t* workspace, const Stream& stream) {
  if (plan.grid.workspace > 0) clear(workspace, plan.grid.workspace * sizeof(uint32_t), stream);
}
}  // namespace

template <class S>
Plan choose(const CallSpec& call, const DeviceLimits& device) {
  return plan_of<S>(call, device, false);
}
template <class S>
Plan choose_step(const CallSpec& call, const DeviceLimits& device) {
  return plan_of<S>(call, device, true);
}

template <class S>
std::string explain(const CallSpec& call, const DeviceLimits& device) {
#if defined(STATEFUL_LSTM_EMULATOR)
  ++plans_explained;
#endif
  const Plan plan = first_fit<S>(call, device, false);
  const auto name = [](const Candidate<S>& c) {
    return std::string(name_of(c.kernel)) + ", " + c.variant;
  };
  std::string text = std::to_string(plan.grid.blocks) + " blocks of " +
                     std::to_string(plan.grid.threads) + " threads, " +
                     std::to_string(plan.grid.shared_bytes) +
                     " bytes of shared memory each: " + name(candidates<S>()[plan.candidate]);
  for (int k = 0; k < plan.candidate; ++k) {
    const Candidate<S>& each = candidates<S>()[k];
    text += (k == 0 ? "; before it " : "; ") + name(each) + ": " +
            text_of(refusal(each, call, device), each, call, device);
  }
  return text;
}

template <class S>
void forward(const ForwardArgs<S>& p, const Plan& plan, uint32_t* workspace, const Stream& stream) {
  clear_workspace(plan, workspace, stream);
  candidates<S>()[plan.candidate].forward(p, plan.grid, workspace, stream);
}
template <class S>
void backward(const BackwardArgs<S>& p, const Plan& plan, uint32_t* workspace,
              const Stream& stream) {
  clear_workspace(plan, workspace, stream);
  candidates<S>()[plan.candidate].backward(p, plan.grid, workspace, stream);
}
template <class S>
void inference_step(const InferenceStepArgs<S>& p, const Plan& plan, const Stream& stream) {
  candidates<S>()[plan.candidate].step(p, stream);
}

template <class Index>
void resolve_slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows, int32_t* taken,
                   uint32_t* error, const Stream& stream) {
  launch_read_slots(indices, B, slots, rows, taken, error, stream);
}

namespace {
template <class F>
void by_bytes(int64_t bytes, const F& f) {
  if (bytes == 2) return f(uint16_t());
  if (bytes == 4) return f(uint32_t());
  f(uint64_t());
}
}  // namespace
void gather(void* batch, const void* state, int64_t bytes, const int64_t* rows, int64_t layers,
            int64_t B, int64_t slots, int64_t n, const Stream& stream) {
  by_bytes(bytes, [&](auto x) {
    launch_copy(gather_rows<decltype(x)>, batch, state, rows, layers, B, slots, n, stream);
  });
}
void scatter(void* state, const void* batch, int64_t bytes, const int64_t* rows, int64_t layers,
             int64_t B, int64_t slots, int64_t n, const Stream& stream) {
  by_bytes(bytes, [&](auto x) {
    launch_copy(scatter_rows<decltype(x)>, state, batch, rows, layers, B, slots, n, stream);
  });
}

#define LSTM_INSTANTIATE(S)                                                              \
  template const std::vector<Candidate<S>>& candidates<S>();                             \
  template Plan choose<S>(const CallSpec&, const DeviceLimits&);                         \
  template Plan choose_step<S>(const CallSpec&, const DeviceLimits&);                    \
  template std::string explain<S>(const CallSpec&, const DeviceLimits&);                 \
  template void forward(const ForwardArgs<S>&, const Plan&, uint32_t*, const Stream&);   \
  template void backward(const BackwardArgs<S>&, const Plan&, uint32_t*, const Stream&); \
  template void inference_step(const InferenceStepArgs<S>&, const Plan&, const Stream&);
LSTM_INSTANTIATE(float)
LSTM_INSTANTIATE(double)
LSTM_INSTANTIATE(Half)
LSTM_INSTANTIATE(Bfloat16)
#undef LSTM_INSTANTIATE
template void resolve_slots(const int32_t*, int64_t, int64_t, int64_t*, int32_t*, uint32_t*,
                            const Stream&);
template void resolve_slots(const int64_t*, int64_t, int64_t, int64_t*, int32_t*, uint32_t*,
                            const Stream&);

}  // namespace stateful_lstm::cuda
