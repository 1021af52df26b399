#include "cuda/launcher.h"

#include <map>
#include <mutex>

#include "cuda/candidates.h"
#if !defined(STATEFUL_LSTM_EMULATOR)
#include "cuda/instances/extern.h"
#endif

namespace stateful_lstm::cuda {

#if defined(STATEFUL_LSTM_EMULATOR)
const char* built_for() { return "emulator"; }
Device emulated = {90, 8, 232448, 8};
Device device(int) { return emulated; }
uint32_t* error_word(int) {
  static uint32_t word = 0;
  return &word;
}
#else

#if !defined(STATEFUL_LSTM_CUDA_ARCHITECTURES)
#error "STATEFUL_LSTM_CUDA_ARCHITECTURES must name what is built: compile.py does"
#endif
const char* built_for() { return STATEFUL_LSTM_CUDA_ARCHITECTURES; }

namespace {
int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "asking for a property of the device");
  return value;
}
// f(device) the first time, and what it gave then afterwards.
template <class T, class F>
T once(int device, const F& f) {
  static std::mutex mutex;
  static std::map<int, T> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  return found != known.end() ? found->second : known.emplace(device, f(device)).first->second;
}
}  // namespace

Device device(int index) {
  return once<Device>(index, [](int d) -> Device {
    const int arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor, d) +
                     attribute(cudaDevAttrComputeCapabilityMinor, d);
    constexpr int kPortable = 8;  // blocks of a cluster that every chip with clusters takes
    return {arch, attribute(cudaDevAttrMultiProcessorCount, d),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, d), arch >= 90 ? kPortable : 1};
  });
}
uint32_t* error_word(int device) {
  return once<uint32_t*>(device, [](int) {
    // The first call may be one that a CUDA graph records; what is taken here is no part of it.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    check(cudaThreadExchangeStreamCaptureMode(&mode), "allowing memory to be taken");
    void* word = nullptr;  // for as long as the process lives; the same address on host and device
    const cudaError_t taken =
        cudaHostAlloc(&word, sizeof(uint32_t), cudaHostAllocMapped | cudaHostAllocPortable);
    check(cudaThreadExchangeStreamCaptureMode(&mode), "going on with a recording");
    check(taken, "taking memory for a word of errors");
    *static_cast<uint32_t*>(word) = 0;
    return static_cast<uint32_t*>(word);
  });
}
#endif

template <class S>
std::string explain(const Call& call, const Device& on) {
  const Plan<S> plan = choose<S>(call, on);
  return std::to_string(plan.grid.blocks) + " blocks of " + std::to_string(plan.grid.threads) +
         " threads, " + std::to_string(plan.grid.shared_bytes) +
         " bytes of shared memory each: " + plan.why;
}

template <class S>
int64_t count_words(const Call& call, const Device& on) {
  const Plan<S> plan = choose<S>(call, on);
  return plan.grid.words > 0 ? plan.grid.words : 1;
}

// The plan counts on nothing having been asked of `counts` before: it clears what the kernel counts in.
template <class S, class Params>
Plan<S> ready(const Params& p, bool tf32, bool backward, uint32_t* counts, const Device& on,
              const Stream& stream) {
  const Plan<S> plan = choose<S>({p.T, p.B, p.H, p.P, tf32, backward}, on);
  if (plan.grid.words > 0) clear(counts, plan.grid.words * sizeof(uint32_t), stream);
  return plan;
}
template <class S>
void forward(const Forward<S>& p, bool tf32, uint32_t* counts, const Device& on,
             const Stream& stream) {
  ready<S>(p, tf32, false, counts, on, stream).candidate->forward(p, counts, stream);
}
template <class S>
void backward(const Backward<S>& p, bool tf32, uint32_t* counts, const Device& on,
              const Stream& stream) {
  ready<S>(p, tf32, true, counts, on, stream).candidate->backward(p, counts, stream);
}

template <class S>
void resident_step(const ResidentStep<S>& p, bool tf32, const Device& on, const Stream& stream) {
  const Call call = {1, p.B, p.H, p.P, tf32, false};
  for (const Candidate<S>& each : candidates<S>())
    if (each.step != nullptr && objection(each, call, on).empty()) return each.step(p, stream);
}

template <class Index>
void slots(const Index* indices, int64_t B, int64_t slots, int64_t* rows, int32_t* taken,
           uint32_t* error, const Stream& stream) {
  run_read_slots(indices, B, slots, rows, taken, error, stream);
}

void gather(void* batch, const void* state, int64_t bytes, const int64_t* rows, int64_t layers,
            int64_t B, int64_t slots, int64_t n, const Stream& stream) {
  const auto run = bytes == 2   ? run_gather<uint16_t>
                   : bytes == 4 ? run_gather<uint32_t>
                                : run_gather<uint64_t>;
  run(batch, state, rows, layers, B, slots, n, stream);
}
void scatter(void* state, const void* batch, int64_t bytes, const int64_t* rows, int64_t layers,
             int64_t B, int64_t slots, int64_t n, const Stream& stream) {
  const auto run = bytes == 2   ? run_scatter<uint16_t>
                   : bytes == 4 ? run_scatter<uint32_t>
                                : run_scatter<uint64_t>;
  run(state, batch, rows, layers, B, slots, n, stream);
}

#define LSTM_INSTANTIATE(S)                                                                  \
  template const std::vector<Candidate<S>>& candidates<S>();                                 \
  template std::string explain<S>(const Call&, const Device&);                               \
  template int64_t count_words<S>(const Call&, const Device&);                               \
  template void forward(const Forward<S>&, bool, uint32_t*, const Device&, const Stream&);   \
  template void backward(const Backward<S>&, bool, uint32_t*, const Device&, const Stream&); \
  template void resident_step(const ResidentStep<S>&, bool, const Device&, const Stream&);
LSTM_INSTANTIATE(float)
LSTM_INSTANTIATE(double)
LSTM_INSTANTIATE(Half)
LSTM_INSTANTIATE(Bfloat16)
#undef LSTM_INSTANTIATE
template void slots(const int32_t*, int64_t, int64_t, int64_t*, int32_t*, uint32_t*, const Stream&);
template void slots(const int64_t*, int64_t, int64_t, int64_t*, int32_t*, uint32_t*, const Stream&);

}  // namespace stateful_lstm::cuda
