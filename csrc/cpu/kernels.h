// The CPU kernels as a table of functions, one table per instruction set and parameter type.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string>

#include "params.h"
#include "cpu/heuristics.h"
#include "cpu/thread_team.h"

namespace stateful_lstm::cpu {

// Whether g++'s sanitizer is to see every load: it does not watch those of some lanes.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kWatched = true;
#else
constexpr bool kWatched = false;
#endif

// How a call reads its weights: packed before all steps; those of the inputs panel by panel when their product comes, if
// there is one for all steps, and the others before; all panel by panel; or where they lie, which forward adds up
// in another order.
enum class Weights { packed, inputs_on_the_fly, packed_on_the_fly, in_place };
constexpr bool packed_before(Weights are) {
  return are == Weights::packed || are == Weights::inputs_on_the_fly;
}
enum class InPlace { never, if_quicker, always };

// How a call's weights are laid out for its products: panels, packed apart, in any order.
template <class S, class Params>
struct Packing {
  int64_t (*size)(const Params&);  // elements of Acc<S> in all
  // What one of `members` reads where they share a call by units, to its place; all of it for (0, 1).
  void (*pack)(const Params&, Acc<S>* pack, int64_t member, int64_t members);
};

template <class S>
struct Kernels {
  const char* name;  // of the instruction set: set by dispatch.cpp
  int64_t lanes;     // numbers of type Acc<S> in a vector
  bool paired;       // whether products take pairs of S, with sums of type Acc<S>
  bool tiled;        // and tiles of them

  // How a call is to read the weights; if not packed before, `pack` is null. Forward it depends on T and B
  // whether they are read in place, and with it the order of sums: so only if they `may_be`.
  Weights (*forward_weights_are)(const ForwardParams<S>&, InPlace may_be);
  Weights (*backward_weights_are)(const BackwardParams<S>&);
  Packing<S, ForwardParams<S>> forward_weights, recurrent_weights;  // with the inputs', and without
  Packing<S, BackwardParams<S>> backward_weights;
  // All T steps for a part of the rows, or for all rows and a member's part of the units; `work` is
  // shared by all parts, `member_scratch` is the part's alone.
  void (*forward_part)(const ForwardParams<S>&, Weights, const Acc<S>* pack, Acc<S>* work,
                       Acc<S>* member_scratch, const Part&, Barrier&);
  void (*backward_part)(const BackwardParams<S>&, const Acc<S>* pack, Acc<S>* work, const Part&,
                        Barrier&);

  // The gradients that are parallel over time: weight_ih packed for that of the inputs, the panels of [X, R] in
  // all and what each holds, a range of them packed, and ranges of tiles of `tile_rows` of the weights'
  // rows, or of rows of the inputs. `scratch` has gradient_scratch_size numbers.
  Weights (*gradient_weight_is)(const GradientParams<S>&);
  Packing<S, GradientParams<S>> gradient_weight;
  int64_t tile_rows, gradient_scratch_size;
  int64_t (*gradient_panels)(const GradientParams<S>&);
  int64_t (*gradient_panel_size)(const GradientParams<S>&);
  void (*gradient_pack)(const GradientParams<S>&, Acc<S>* pack, int64_t begin, int64_t end);
  void (*gradient_weights)(const GradientParams<S>&, const Acc<S>* pack, Acc<S>* scratch,
                           int64_t begin, int64_t end);
  void (*gradient_inputs)(const GradientParams<S>&, const Acc<S>* pack, Acc<S>* scratch,
                          int64_t begin, int64_t end);

  // Recomputes the gates of some rows, at most kRecomputeRows. `scratch` has recompute_scratch_size numbers.
  Packing<S, RecomputeParams<S>> recompute_weights;
  int64_t (*recompute_scratch_size)(const RecomputeParams<S>&);
  void (*recompute_gates)(const RecomputeParams<S>&, const Acc<S>* pack, Acc<S>* scratch,
                          int64_t begin, int64_t end);

  void (*round)(S* to, const Acc<S>* from, int64_t n);

  // What some steps of a layer have in common, of units [begin, end). One step: its inputs; units [begin, end) for
  // all rows; and the projection of a range of rows. The last two write the state.
  void (*step_x_sums)(const SumsOfXParams<S>&, int64_t begin, int64_t end);
  void (*step_inputs)(const StepParams<S>&, const S* before);
  void (*step_units)(const StepParams<S>&, int64_t begin, int64_t end);
  void (*step_project)(const StepParams<S>&, int64_t begin, int64_t end);
};

using heuristics::kRecomputeRows;

// From one row of n numbers to the next: rows whose lengths are multiples of a page's half would all meet in a
// few sets of L1, and a tile that reads a dozen of them together would find none there.
constexpr int64_t kMostSpread = 64;  // numbers more, at most
template <class X>
constexpr int64_t spread_row(int64_t n) {
  constexpr int64_t kHalfPage = 2048, kLine = 64;
  return n * int64_t(sizeof(X)) % kHalfPage == 0 ? n + kLine / int64_t(sizeof(X)) : n;
}

// Tiles read whole ones: rows end in zeros, so many numbers of type Acc<S> at most, and so many rows more
// may be read than there are.
constexpr int64_t kTileSide = 16;

// Elements of Acc<S> that the parts of one call need for h, c and their gradients.
template <class S>
int64_t work_size(const SequenceParams<S>& p) {
  const int64_t last = p.weight_hr ? kTileSide * (std::max(p.H, p.P) + kTileSide) : 0;
  return p.B * (4 * p.P + 2 * kMostSpread + 2 * p.H + kTileSide) + last;
}

constexpr int64_t kSumLength = 256;  // long sums are sums of sums over so many numbers

// Forward works on the inputs of some steps at once: all, if they make no more than kInputRows rows; or else as many as
// make about a hundred, but one at least.
using heuristics::kInputRows;
inline int64_t input_steps(int64_t T, int64_t rows, bool tiled) {
  if (T * rows <= kInputRows) return T;
  return std::clamp<int64_t>((tiled ? kInputRows : kInputRows / 2) / rows, 1, T);
}
// Elements of Acc<S> for the inputs of a step: (B, I + P) numbers. Tiles have columns for fewer than two rows
// in place of one, of pairs.
template <class S>
int64_t step_size(int64_t B, int64_t I, int64_t P) {
  return B * (I + P + 4 * kTileSide) + kTileSide;
}

// Numbers from one row of the gradients of gates to the next, of those that products take; and in all.
template <class S>
int64_t gates_stride(const Kernels<S>& kernel, int64_t H) {
  constexpr int64_t kWhole = 2 * kTileSide;
  const int64_t n = 4 * H, whole = kernel.tiled ? (n + kWhole - 1) / kWhole * kWhole : n;
  return kernel.paired ? spread_row<S>(whole) : spread_row<Acc<S>>(whole);
}
template <class S>
int64_t gates_size(const Kernels<S>& kernel, const SequenceParams<S>& p) {
  return (p.T * p.B + (kernel.tiled ? kTileSide : 0)) * gates_stride(kernel, p.H);
}

// Elements that a part of so many rows or fewer needs for itself forward: inputs, what their products
// are, and a panel. Fewer rows may come to more of them in all, as more steps fit.
template <class S>
int64_t member_scratch_size(const Kernels<S>& kernel, const ForwardParams<S>& p, int64_t rows) {
  const int64_t lanes = kernel.lanes, units = (p.H + lanes - 1) / lanes * lanes;
  const int64_t most = std::min(p.T * rows, std::max(rows, kInputRows));
  return most * (p.I + kMostSpread + 4 * units) + 4 * lanes * (std::max(p.I, p.P) + kTileSide);
}

// The table for this machine: the best instruction set it has, or the one that the environment variable
// STATEFUL_LSTM_CPU names ("portable", "pairs", "tiles", "avx2", "avx512", "avx512bf16", "amx"). Throws
// std::runtime_error if this machine does not support it.
template <class S>
const Kernels<S>& kernels();

// The names of all instruction sets that this machine supports, the best first, separated by commas.
std::string available_names();

// Defined by isa/*.cpp.
#define LSTM_INSTRUCTION_SET(name) \
  namespace name {                 \
  template <class S>               \
  Kernels<S> table();              \
  }
LSTM_INSTRUCTION_SET(portable)
LSTM_INSTRUCTION_SET(pairs)
LSTM_INSTRUCTION_SET(avx2)
LSTM_INSTRUCTION_SET(avx512)
LSTM_INSTRUCTION_SET(avx512bf16)
LSTM_INSTRUCTION_SET(amx)
LSTM_INSTRUCTION_SET(tiles)
#undef LSTM_INSTRUCTION_SET

}  // namespace stateful_lstm::cpu
