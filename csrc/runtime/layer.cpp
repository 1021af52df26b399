#include "runtime/layer.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "runtime/scratch_memory.h"
#include "cpu/kernels.h"
#include "runtime/run_team.h"
#include "runtime/partition.h"
#include "runtime/torch_threads.h"

namespace stateful_lstm {
namespace {

// Whether forward sequences read weights in place. By default they do so where it is faster.
// STATEFUL_LSTM_PACK=always packs in every call, so a sequence gives the same bits however it is cut into
// calls. STATEFUL_LSTM_PACK=never packs only where weights cannot be read in place.
cpu::InPlace in_place(bool may_be) {
  static const char* name = std::getenv("STATEFUL_LSTM_PACK");
  static const std::string asked = name ? name : "";
  if (!asked.empty() && asked != "always" && asked != "never")
    throw std::runtime_error("STATEFUL_LSTM_PACK must be always or never, got " + asked);
  if (!may_be || asked == "always") return cpu::InPlace::never;
  return asked == "never" ? cpu::InPlace::always : cpu::InPlace::if_quicker;
}

// Packs the weights of a call, if it needs packed weights. All threads pack, or fewer if the weights are few.
template <class S, class Params>
Buffer<Acc<S>> pack_together(const cpu::Packing<S, Params>& packing, const Params& p, bool packed) {
  const int64_t size = packed ? packing.size(p) : 0;
  Buffer<Acc<S>> pack(size, Place::pack);
  if (size == 0) return pack;
  const int64_t members = std::clamp<int64_t>(size / heuristics::kPackWork, 1, thread_count());
  parallel_for(0, members, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) packing.pack(p, pack.get(), k, members);
  });
  return pack;
}

// Runs a call in parts: run(part, pack, barrier). The parts are ranges of rows, or ranges of units where rows
// are few or the weights are large: each thread's weights then stay in its own cache. Weights that another
// core packed may be far away. So with units each thread packs the weights that it reads. With rows each
// thread packs a private copy of all weights, if the copies are small or its rows and steps repay the
// packing. Otherwise all threads pack one common copy.
template <class S, class Params, class F>
void in_parts(const cpu::Packing<S, Params>& packing, const Params& p, cpu::Weights are,
              const Partition& how, const F& run) {
  using A = Acc<S>;
  const bool packed = packed_before(are);
  const int64_t size = packed ? packing.size(p) : 0;
  if (how.by_units) {
    const Buffer<A> pack(size, Place::pack);
    return run_team(p.B, how.members, [&](const cpu::Part& part, cpu::Barrier& barrier) {
      if (packed) packing.pack(p, pack.get(), part.member, part.members);
      run(part, pack.get(), barrier);
    });
  }
  const int64_t rows = how.rows(p.B), all = how.members * size;
  const bool private_packs =
      packed && how.members > 1 &&
      all <= (rows * p.T >= heuristics::kPrivatePackRows
                  ? heuristics::kPrivatePackGain * heuristics::kPrivatePackSize
                  : heuristics::kPrivatePackSize);
  const Buffer<A> common = pack_together(packing, p, packed && !private_packs);
  parallel_for(0, how.members, 1, [&](int64_t begin, int64_t end) {
    if (begin * rows >= p.B) return;
    const Buffer<A> pack(private_packs ? size : 0, Place::pack);
    if (private_packs) packing.pack(p, pack.get(), 0, 1);
    for (int64_t k = begin; k < end && k * rows < p.B; ++k) {
      cpu::Barrier unused;
      run(cpu::Part{k * rows, std::min(p.B, (k + 1) * rows), 0, 1},
          (private_packs ? pack : common).get(), unused);
    }
  });
}

}  // namespace

template <class S>
void run_forward(const ForwardParams<S>& p, bool may_be_in_place) {
  using A = Acc<S>;
  if (p.B == 0) return;
  const auto& kernel = cpu::kernels<S>();
  cpu::Weights are = kernel.forward_weights_are(p, in_place(may_be_in_place));
  const Partition how = choose_partition(p, are, p.I);
  const int64_t rows = how.rows(p.B),
                member_scratch_size = cpu::member_scratch_size(kernel, p, rows);
  if (are == cpu::Weights::packed && !kernel.tiled && cpu::input_steps(p.T, rows, false) == p.T)
    are = cpu::Weights::inputs_on_the_fly;
  const bool on_the_fly = are == cpu::Weights::inputs_on_the_fly;
  const Buffer<A> work(cpu::work_size(p), Place::work);
  in_parts(on_the_fly ? kernel.recurrent_weights : kernel.forward_weights, p, are, how,
           [&](const cpu::Part& part, const A* pack, cpu::Barrier& barrier) {
             const Buffer<A> scratch(member_scratch_size, Place::member_scratch);
             kernel.forward_part(p, are, pack, work.get(), scratch.get(), part, barrier);
           });
}

// Steps [begin, end) of a forward call without lengths.
template <class S>
ForwardParams<S> some_steps(ForwardParams<S> p, int64_t begin, int64_t end) {
  if (begin > 0) {
    p.h0 = p.h_n;
    p.c0 = p.c_n;
  }
  p.T = end - begin;
  p.x += begin * p.B * p.I;
  p.y += begin * p.B * p.P;
  if (p.reset) p.reset += begin * p.B;
  return p;
}

template <class S>
void run_layers(const std::vector<ForwardParams<S>>& layers) {
  using A = Acc<S>;
  const auto& kernel = cpu::kernels<S>();
  const ForwardParams<S>& p = layers.front();
  const int64_t count = layers.size();
  const int64_t members = std::min<int64_t>(thread_count(), count);
  const int64_t piece =
      heuristics::kWindowSteps *
      std::max<int64_t>(1, p.T / (heuristics::kWindowSteps * heuristics::kMostWindows));
  const int64_t pieces = (p.T + piece - 1) / piece;
  const bool packed = std::all_of(layers.begin(), layers.end(), [&](const auto& layer) {
    return kernel.forward_weights_are(layer, in_place(true)) == cpu::Weights::packed;
  });
  // Where a layer's weights fit near one thread, one thread runs the whole layer and waits for others less
  // often.
  const bool near = StepCost<S>(p, p.I, /*packs=*/true).near();
  const Partition how = choose_partition(p, cpu::Weights::packed, p.I);
  const int64_t busy = near ? std::min<int64_t>(p.B, thread_count()) : how.members;
  const bool in_turn = p.B == 0 || p.lengths || !packed || pieces < heuristics::kFewWindows ||
                       work_of(p, p.I) < heuristics::kCallWork || 2 * busy > members;
  if (in_turn) {
    for (const ForwardParams<S>& layer : layers) run_forward(layer, /*may_be_in_place=*/true);
    return;
  }
  std::vector<Buffer<A>> packs;
  for (const ForwardParams<S>& layer : layers)
    packs.emplace_back(kernel.forward_weights.size(layer), Place::pack);
  std::vector<cpu::Progress> progress(count);
  run_team(p.B, members, [&](const cpu::Part& part, cpu::Barrier& unused) {
    const Buffer<A> work(cpu::work_size(p), Place::work);
    for (int64_t k = part.member; k < count; k += part.members)
      kernel.forward_weights.pack(layers[k], packs[k].get(), 0, 1);
    for (int64_t wave = 0; wave < pieces + count - 1; ++wave) {
      for (int64_t k = part.member; k < count; k += part.members) {
        const int64_t begin = (wave - k) * piece;
        if (begin < 0 || begin >= p.T) continue;
        if (k > 0) progress[k - 1].wait_for(wave - k + 1);
        const auto some = some_steps(layers[k], begin, std::min(p.T, begin + piece));
        const Buffer<A> scratch(cpu::member_scratch_size(kernel, some, p.B), Place::member_scratch);
        kernel.forward_part(some, cpu::Weights::packed, packs[k].get(), work.get(), scratch.get(),
                            cpu::Part{0, p.B, 0, 1}, unused);
        progress[k].advance();
      }
    }
  });
}

template <class S>
void run_backward(const BackwardParams<S>& p) {
  using A = Acc<S>;
  if (p.B == 0) return;
  const auto& kernel = cpu::kernels<S>();
  const cpu::Weights are = kernel.backward_weights_are(p);
  const Buffer<A> work(cpu::work_size(p), Place::work);
  in_parts(kernel.backward_weights, p, are, choose_partition(p, are),
           [&](const cpu::Part& part, const A* pack, cpu::Barrier& barrier) {
             kernel.backward_part(p, pack, work.get(), part, barrier);
           });
}

namespace {

// The gradients that are parallel over time.
template <class S>
void run_gradients(const GradientParams<S>& p) {
  using A = Acc<S>;
  const int64_t rows = p.T * p.B;
  if (rows == 0) return;
  const auto& kernel = cpu::kernels<S>();
  const auto share = [](int64_t count, int64_t work, const auto& part) {
    const int64_t grain =
        std::max<int64_t>(1, heuristics::kGradientWork / std::max<int64_t>(1, work));
    if (count <= grain)
      part(0, count);
    else
      parallel_for(0, count, grain, part);
  };
  const int64_t panels = kernel.gradient_panels(p), size = kernel.gradient_panel_size(p);
  if (panels > 0 || p.grad_bias) {
    const Buffer<A> pack(panels * size, Place::pack);
    share(panels, heuristics::kPackCost * size,
          [&](int64_t begin, int64_t end) { kernel.gradient_pack(p, pack.get(), begin, end); });
    const int64_t tiles = (4 * p.H + kernel.tile_rows - 1) / kernel.tile_rows;
    share(tiles, kernel.tile_rows * (p.I + p.P) * (rows + heuristics::kPackCost),
          [&](int64_t begin, int64_t end) {
            const Buffer<A> scratch(kernel.gradient_scratch_size, Place::member_scratch);
            kernel.gradient_weights(p, pack.get(), scratch.get(), begin, end);
          });
  }
  if (p.grad_x == nullptr) return;
  const Buffer<A> pack = pack_together(kernel.gradient_weight, p,
                                       kernel.gradient_weight_is(p) == cpu::Weights::packed);
  share(rows, 4 * p.H * p.I, [&](int64_t begin, int64_t end) {
    const Buffer<A> scratch(
        sizeof(S) < sizeof(A) ? std::min(heuristics::kGradientInputRows, end - begin) * p.I : 0,
        Place::member_scratch);
    for (int64_t b = begin; b < end; b += heuristics::kGradientInputRows)
      kernel.gradient_inputs(p, pack.get(), scratch.get(), b,
                             std::min(end, b + heuristics::kGradientInputRows));
  });
}

}  // namespace

template <class S>
void run_all_gradients(BackwardParams<S> p, GradientParams<S> g,
                       const WeightGradients<S>& weights) {
  using A = Acc<S>;
  const int64_t rows = p.T * p.B, all[] = {4 * p.H * g.I, 4 * p.H * p.P, 4 * p.H};
  // The sums are the results. If the results are narrower, the sums stay in scratch until they are complete.
  const bool apart = weights.last && sizeof(S) < sizeof(A);
  const bool direct = apart && !weights.adds && rows > 0 && rows <= cpu::kSumLength;
  int64_t sizes[3], scratch_size = 0;
  for (int k = 0; k < 3; ++k) {
    sizes[k] = weights.to[k] == nullptr || (direct && k < 2) ? 0 : all[k];
    if (apart) scratch_size += sizes[k];
  }
  const Buffer<A> scratch(scratch_size, Place::sums);
  A *sums[3] = {}, *next = scratch.get();
  for (int k = 0; k < 3; next += sizes[k++]) {
    if (sizes[k] == 0) continue;
    sums[k] = apart ? next : static_cast<A*>(weights.to[k]);
    if (weights.adds) std::copy_n(weights.before[k], sizes[k], sums[k]);
    if (!weights.adds && rows == 0) std::fill_n(sums[k], sizes[k], A{});
  }
  g.adds = weights.adds;
  g.grad_ih = sums[0];
  g.grad_hh = sums[1];
  g.grad_bias = sums[2];
  g.narrow_ih = direct ? static_cast<S*>(weights.to[0]) : nullptr;
  g.narrow_hh = direct ? static_cast<S*>(weights.to[1]) : nullptr;
  const auto& kernel = cpu::kernels<S>();
  p.gates_stride = g.gates_stride = cpu::gates_stride(kernel, p.H);
  const int64_t count = cpu::gates_size(kernel, p);
  const Buffer<A> wide(kernel.paired ? 0 : count, Place::gates);
  const Buffer<S> narrow(kernel.paired ? count : 0, Place::gates);
  p.grad_gates = wide.get();
  p.grad_gates_narrow = narrow.get();
  g.grad_gates = kernel.paired ? static_cast<const void*>(narrow.get()) : wide.get();
  run_backward(p);
  run_gradients(g);
  for (int k = 0; apart && k < 3; ++k)
    round_sums(static_cast<S*>(weights.to[k]), sums[k], sizes[k]);
}

template <class S>
void run_recompute_gates(const RecomputeParams<S>& p) {
  const int64_t rows = p.T * p.B;
  if (rows == 0) return;
  const auto& kernel = cpu::kernels<S>();
  const Buffer<Acc<S>> pack = pack_together(kernel.recompute_weights, p, /*packed=*/true);
  parallel_for(
      0, (rows + heuristics::kRecomputeRows - 1) / heuristics::kRecomputeRows, 1,
      [&](int64_t begin, int64_t end) {
        const Buffer<Acc<S>> scratch(kernel.recompute_scratch_size(p), Place::member_scratch);
        for (int64_t k = begin; k < end; ++k)
          kernel.recompute_gates(p, pack.get(), scratch.get(), k * heuristics::kRecomputeRows,
                                 std::min(rows, (k + 1) * heuristics::kRecomputeRows));
      });
}

template <class S>
void round_sums(S* to, const Acc<S>* from, int64_t n) {
  parallel_for(0, n, heuristics::kRoundWork, [&](int64_t begin, int64_t end) {
    cpu::kernels<S>().round(to + begin, from + begin, end - begin);
  });
}

#define LSTM_INSTANTIATE(S)                                             \
  template void run_forward(const ForwardParams<S>&, bool);             \
  template void run_layers(const std::vector<ForwardParams<S>>&);       \
  template void run_backward(const BackwardParams<S>&);                 \
  template void run_all_gradients(BackwardParams<S>, GradientParams<S>, \
                                  const WeightGradients<S>&);           \
  template void run_recompute_gates(const RecomputeParams<S>&);         \
  template void round_sums(S*, const Acc<S>*, int64_t);
LSTM_INSTANTIATE(float)
LSTM_INSTANTIATE(double)
LSTM_INSTANTIATE(bfloat16)
#undef LSTM_INSTANTIATE

}  // namespace stateful_lstm
