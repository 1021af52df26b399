#include "runtime/stateful_inference.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "runtime/scratch_memory.h"
#include "cpu/kernels.h"
#include "runtime/run_team.h"
#include "runtime/layer.h"
#include "runtime/torch_threads.h"

namespace stateful_lstm {

namespace heuristics = cpu::heuristics;

namespace {

// The number of threads that share a step's units. Starting the pool takes as long as a small step.
template <class S>
int64_t step_members(const cpu::Kernels<S>& kernel, const StackCall<S>& s) {
  const int64_t inputs = s.L > 1 ? std::max(s.I, s.D * s.P) : s.I;
  const int64_t blocks = (s.H + kernel.lanes - 1) / kernel.lanes;
  const int64_t work = s.B * blocks * kernel.lanes * 4 * (inputs + s.P);
  if (work <= heuristics::kStepWork) return 1;
  return std::clamp<int64_t>(work / heuristics::kStepWork, 1,
                             std::min<int64_t>(blocks, thread_count()));
}

template <class A>
int64_t whole_lines(int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(A);
  return (n + kLine - 1) / kLine * kLine;
}

// Runs one step whose inputs are ready. Threads share its units and do not meet. The data that they read lies
// together, since every line of it comes from another core's cache.
template <class S>
void units_in_shares(const cpu::Kernels<S>& kernel, const StepParams<S>& step, int64_t blocks,
                     int64_t shares) {
  const auto run = kernel.step_units;
  const int64_t lanes = kernel.lanes;
  // The calling thread takes the first share. Its caches also hold Python, so its share is a sixteenth
  // smaller.
  const int64_t less = std::min<int64_t>(heuristics::kCallerLess,
                                         step.H / shares / heuristics::kCallerShare / 4 * 4);
  parallel_for(0, shares, 1, [=](int64_t begin, int64_t end) {
    const auto first = [&](int64_t share) {
      const int64_t unit = blocks * share / shares * lanes;
      return share == 0 ? 0 : share == shares ? step.H : unit - less;
    };
    run(step, first(begin), first(end));
  });
}

// Whether the sums over x are computed for all steps of a call at once, so that weight_ih is read only once.
// Each row of weight_ih leaves a vector of sums for each row of the batch, so it must be several times as
// long as these.
template <class S>
bool sums_x_first(const cpu::Kernels<S>& kernel, const StackCall<S>& s, int64_t inputs) {
  const int64_t kept = s.B * kernel.lanes * int64_t(sizeof(Acc<S>));
  return s.T > 1 && !kernel.tiled && inputs * int64_t(sizeof(S)) >= heuristics::kManyOfRows * kept;
}

template <class S>
void run_steps(const StackCall<S>& s) {
  using A = Acc<S>;
  // Every other call visits the weights in reverse order: the weights that the last call read last are still
  // in the cache. Results do not depend on the order.
  static std::atomic<unsigned> calls{0};
  const bool backwards = calls.fetch_add(1, std::memory_order_relaxed) % 2 == 1;
  const auto& kernel = cpu::kernels<S>();
  const int64_t B = s.B, width = s.D * s.P;  // output width of every layer
  const bool projection = s.w[0].weight_hr != nullptr;
  const int64_t members = step_members(kernel, s), most = std::max(s.I, s.L > 1 ? width : 0);
  const int64_t in_size = whole_lines<A>(cpu::step_size<S>(B, most, s.P));
  const bool begin = sums_x_first(kernel, s, most);  // true if any layer does so
  const int64_t x_sums_scratch_size = begin ? whole_lines<A>(s.T * B * most) : 0;
  const Buffer<A> in(members * (in_size + x_sums_scratch_size)), hidden(projection ? B * s.H : 0);
  const Buffer<A> x_sums(begin ? s.T * B * 4 * s.H * kernel.lanes : 0, Place::work);
  const Buffer<S> between(s.L > 1 ? 2 * s.T * B * width : 0);
  std::fill_n(hidden.get(), projection ? B * s.H : 0, A{});
  std::vector<int64_t> live(s.lengths ? s.T * B : 0);  // slots of the rows that run the step
  const auto slot = [&](int64_t b) { return s.rows ? s.rows[b] : b; };
  for (int64_t t = 0; s.lengths && t < s.T; ++t)
    for (int64_t b = 0; b < B; ++b) live[t * B + b] = t < s.lengths[b] ? slot(b) : -1;

  const auto params = [&](int64_t t, int64_t k) {
    const int64_t layer = k / s.D, direction = k % s.D;
    const bool top = layer == s.L - 1;
    const auto outputs = [&](int64_t layer) {
      return between.get() + (layer % 2 * s.T + t) * B * width;
    };
    S* y = top ? s.y + t * s.y_time : outputs(layer);
    StepParams<S> p;
    p.B = B;
    p.I = layer == 0 ? s.I : width;
    p.H = s.H;
    p.P = s.P;
    p.x = layer == 0 ? s.x + t * s.x_time : outputs(layer - 1);
    p.x_stride = layer == 0 ? s.x_row : width;
    p.y = y + direction * s.P;
    p.y_stride = top ? s.y_row : width;
    p.from_zero = direction == 1;
    p.backwards = backwards != (t % 2 == 1);
    p.weight_ih = s.w[k].weight_ih;
    p.weight_hh = s.w[k].weight_hh;
    p.bias_ih = s.w[k].bias_ih;
    p.bias_hh = s.w[k].bias_hh;
    p.weight_hr = s.w[k].weight_hr;
    p.slots = s.lengths ? live.data() + t * B : s.rows;
    p.reset = direction == 1 || !s.reset ? nullptr : s.reset + t * s.reset_time;
    p.reset_stride = s.reset_row;
    p.hidden = hidden.get();
    p.h = s.h + k * s.slots * s.P;
    p.c = s.c + k * s.slots * s.H;
    p.h_n = s.h_n + k * B * s.P;
    p.c_n = s.c_n + k * B * s.H;
    p.x_sums =
        sums_x_first(kernel, s, p.I) ? x_sums.get() + t * s.H * B * 4 * kernel.lanes : nullptr;
    return p;
  };
  const int64_t steps = s.T * s.L * s.D, blocks = (s.H + kernel.lanes - 1) / kernel.lanes;
  const auto step = [&](int64_t n, int64_t call) {
    StepParams<S> p = params(n % s.T, n / s.T);
    p.in = in.get() + call * in_size;
    return p;
  };
  const auto prepare = [&](int64_t call) { kernel.step_inputs(step(0, call), nullptr); };
  const auto run_part = [&](const cpu::Part& part, cpu::Barrier& barrier) {
    const auto share = [&](int64_t n, const auto& run) {
      run(n * part.member / part.members, n * (part.member + 1) / part.members);
    };
    for (int64_t n = 0; n < steps; ++n) {
      const StepParams<S> p = step(n, part.call);
      const bool first = n % s.T == 0;        // first step of its layer
      if (n > 0) barrier.wait(part.members);  // all writes of the previous step are visible
      if (p.x_sums && first) {
        const SumsOfXParams<S> all = {
            s.T,
            B,
            p.I,
            p.H,
            n == 0 ? s.x_time : B * width,
            p.x_stride,
            p.x,
            p.weight_ih,
            in.get() + members * in_size + part.call * x_sums_scratch_size,
            x_sums.get()};
        share(blocks, [&](int64_t b, int64_t e) {
          kernel.step_x_sums(all, b * kernel.lanes, std::min(s.H, e * kernel.lanes));
        });
      }
      if (n > 0) {
        const int64_t time = n / s.T == s.L - 1 ? s.y_time : B * width;
        kernel.step_inputs(p, first ? nullptr : p.y - time);  // the previous step's y holds h
        if (first)
          barrier.wait(part.members);  // all members have read the state's h; it may now change
      }
      share(blocks, [&](int64_t b, int64_t e) {
        kernel.step_units(p, b * kernel.lanes, std::min(s.H, e * kernel.lanes));
      });
      if (projection) {
        barrier.wait(part.members);
        share(B, [&](int64_t b, int64_t e) { kernel.step_project(p, b, e); });
      }
    }
  };
  cpu::Barrier unused;
  if (members == 1) {
    prepare(0);
    run_part({0, B, 0, 1}, unused);
  } else if (steps == 1 && !projection &&
             in_size * int64_t(sizeof(A)) <= heuristics::kInputsByOne) {
    prepare(0);
    units_in_shares(kernel, step(0, 0), blocks, members);
  } else {
    run_team(B, members, prepare, run_part);
  }
  for (int64_t b = 0; s.lengths && b < B; ++b) {  // rows that ended earlier
    if (s.lengths[b] >= s.T || slot(b) < 0) continue;
    for (int64_t k = 0; k < s.L * s.D; ++k) {
      S* h_n = s.h_n + (k * B + b) * s.P;
      S* c_n = s.c_n + (k * B + b) * s.H;
      if (k % s.D == 1) {  // reverse direction: a call starts from zero, and no step ran
        std::fill_n(h_n, s.P, S{});
        std::fill_n(c_n, s.H, S{});
        continue;
      }
      const A* c = s.c + (k * s.slots + slot(b)) * s.H;
      std::copy_n(s.h + (k * s.slots + slot(b)) * s.P, s.P, h_n);
      std::transform(c, c + s.H, c_n, narrow<S>);
    }
  }
}

// Rows with strides `time` and `row` as a dense (T, B, n) array: the source itself if dense, or a copy in
// `scratch`.
template <class X>
const X* dense(const X* from, int64_t time, int64_t row, int64_t T, int64_t B, int64_t n,
               Buffer<X>& scratch) {
  if ((row == n || B == 1) && (time == B * n || T == 1)) return from;
  scratch = Buffer<X>(T * B * n, Place::pool);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t b = 0; b < B; ++b)
      std::copy_n(from + t * time + b * row, n, scratch.get() + (t * B + b) * n);
  return scratch.get();
}

// The resets for the reverse direction, in `moved`. A cut between t-1 and t comes before step t-1 in that
// direction. A reset after the row's last step is dropped: the row starts there.
const bool* reversed(const bool* reset, const int64_t* lengths, int64_t T, int64_t B,
                     Buffer<bool>& moved) {
  if (reset == nullptr) return nullptr;
  moved = Buffer<bool>(T * B);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t b = 0; b < B; ++b)
      moved.get()[t * B + b] = t + 1 < (lengths ? lengths[b] : T) && reset[(t + 1) * B + b];
  return moved.get();
}

// The initial state of layer and direction k: the rows' slots, or zeros for padding rows and for the reverse
// direction.
template <class S>
void initial_state(const StackCall<S>& s, int64_t k, S* h0, Acc<S>* c0) {
  for (int64_t b = 0; b < s.B; ++b) {
    const int64_t slot = k % s.D == 1 ? -1 : s.rows ? s.rows[b] : b;
    if (slot >= 0) {
      std::copy_n(s.h + (k * s.slots + slot) * s.P, s.P, h0 + b * s.P);
      std::copy_n(s.c + (k * s.slots + slot) * s.H, s.H, c0 + b * s.H);
    } else {
      std::fill_n(h0 + b * s.P, s.P, S{});
      std::fill_n(c0 + b * s.H, s.H, Acc<S>{});
    }
  }
}

// Runs layer by layer. The state is written last, after everything that can fail.
template <class S>
void run_sequences(const StackCall<S>& s) {
  using A = Acc<S>;
  const int64_t T = s.T, B = s.B, H = s.H, P = s.P, width = s.D * P;
  const bool y_dense = s.y_row == width && s.y_time == B * width;
  const Buffer<S> h0(s.L * s.D * B * P);
  const Buffer<S> between(s.L > 1 || !y_dense ? 2 * T * B * width : 0, Place::pool);
  // Output of one direction, before both are interleaved.
  const Buffer<S> one(s.D == 2 ? T * B * P : 0, Place::pool);
  const Buffer<A> c0(s.L * s.D * B * H), c_n(s.L * s.D * B * H);
  Buffer<S> x_scratch(0);
  Buffer<bool> reset_scratch(0), reversed_scratch(0);
  const auto slot = [&](int64_t b) { return s.rows ? s.rows[b] : b; };
  std::vector<int64_t> lengths;  // a padding row has no steps
  if (s.lengths || s.rows)
    for (int64_t b = 0; b < B; ++b)
      lengths.push_back(slot(b) < 0 ? 0 : s.lengths ? s.lengths[b] : T);

  ForwardParams<S> p = {};
  p.T = T;
  p.B = B;
  p.H = H;
  p.P = P;
  p.I = s.I;
  p.x = dense(s.x, s.x_time, s.x_row, T, B, s.I, x_scratch);
  p.lengths = lengths.empty() ? nullptr : lengths.data();
  const bool* reset =
      s.reset ? dense(s.reset, s.reset_time, s.reset_row, T, B, 1, reset_scratch) : nullptr;
  const bool* resets[] = {reset,
                          s.D == 2 ? reversed(reset, p.lengths, T, B, reversed_scratch) : nullptr};
  S* y = nullptr;
  std::vector<ForwardParams<S>> layers;  // the forward direction's layers, run together
  for (int64_t layer = 0; layer < s.L; ++layer) {
    y = layer == s.L - 1 && y_dense ? s.y : between.get() + layer % 2 * T * B * width;
    for (int64_t direction = 0; direction < s.D; ++direction) {
      const int64_t k = layer * s.D + direction;
      p.h0 = h0.get() + k * B * P;
      p.c0 = c0.get() + k * B * H;
      initial_state(s, k, h0.get() + k * B * P, c0.get() + k * B * H);
      p.reverse = direction == 1;
      p.reset = resets[direction];
      p.weight_ih = s.w[k].weight_ih;
      p.weight_hh = s.w[k].weight_hh;
      p.bias_ih = s.w[k].bias_ih;
      p.bias_hh = s.w[k].bias_hh;
      p.weight_hr = s.w[k].weight_hr;
      p.y = s.D == 2 ? one.get() : y;
      p.h_n = s.h_n + k * B * P;
      p.c_n = c_n.get() + k * B * H;
      if (s.D == 1)
        layers.push_back(p);
      else
        run_forward(p, /*in_place=*/true);
      for (int64_t row = 0; s.D == 2 && row < T * B; ++row)
        std::copy_n(one.get() + row * P, P, y + row * width + direction * P);
    }
    p.x = y;
    p.I = width;
  }
  if (!layers.empty()) run_layers(layers);
  for (int64_t t = 0; !y_dense && t < T; ++t)
    for (int64_t b = 0; b < B; ++b)
      std::copy_n(y + (t * B + b) * width, width, s.y + t * s.y_time + b * s.y_row);
  std::transform(c_n.get(), c_n.get() + s.L * s.D * B * H, s.c_n, narrow<S>);
  for (int64_t k = 0; k < s.L * s.D; ++k)
    for (int64_t b = 0; b < B; ++b) {
      const bool idle = k % s.D == 1 && !lengths.empty() && lengths[b] == 0;  // state unchanged
      if (slot(b) < 0 || idle) continue;
      std::copy_n(s.h_n + (k * B + b) * P, P, s.h + (k * s.slots + slot(b)) * P);
      std::copy_n(c_n.get() + (k * B + b) * H, H, s.c + (k * s.slots + slot(b)) * H);
    }
}

}  // namespace

template <class S>
void run(const StackCall<S>& call) {
  if (call.B == 0) return;  // no row has a result or a slot
  if (call.T <= kFewSteps && (call.D == 1 || call.T == 1))
    run_steps(call);
  else
    run_sequences(call);
}
template void run(const StackCall<float>&);
template void run(const StackCall<double>&);
template void run(const StackCall<bfloat16>&);

template <class Index>
int64_t misplaced_row(const Index* indices, int64_t stride, int64_t B, int64_t slots,
                      std::vector<int64_t>& rows) {
  rows.resize(B);
  std::vector<bool> taken(slots, false);
  for (int64_t b = 0; b < B; ++b) {
    const int64_t slot = rows[b] = indices[b * stride];
    if (slot < -1 || slot >= slots || (slot >= 0 && taken[slot])) return b;
    if (slot >= 0) taken[slot] = true;
  }
  return -1;
}
template int64_t misplaced_row(const int32_t*, int64_t, int64_t, int64_t, std::vector<int64_t>&);
template int64_t misplaced_row(const int64_t*, int64_t, int64_t, int64_t, std::vector<int64_t>&);

}  // namespace stateful_lstm
