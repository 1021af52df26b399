// The CPU kernels as tables of functions: one table per instruction set and parameter type.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string>

#include "params.h"
#include "cpu/heuristics.h"
#include "cpu/thread_team.h"

namespace stateful_lstm::cpu {

// True under g++'s sanitizer, which does not check masked loads and stores: the kernels then avoid them.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kWatched = true;
#else
constexpr bool kWatched = false;
#endif

// How a call reads its weights. packed: all are packed before the first step. inputs_on_the_fly: weight_ih is
// packed panel by panel during a single product over all steps, the others before. packed_on_the_fly: all are
// packed panel by panel. in_place: nothing is packed; forward then adds in another order.
enum class Weights { packed, inputs_on_the_fly, packed_on_the_fly, in_place };
constexpr bool packed_before(Weights are) {
  return are == Weights::packed || are == Weights::inputs_on_the_fly;
}
enum class InPlace { never, if_quicker, always };

// How a call packs its weights: panels, each packed on its own, in any order.
template <class S, class Params>
struct Packing {
  int64_t (*size)(const Params&);  // total elements of Acc<S>
  // Packs the panels that one of `members` reads when members share the units. (0, 1) packs all.
  void (*pack)(const Params&, Acc<S>* pack, int64_t member, int64_t members);
};

template <class S>
struct Kernels {
  const char* name;  // name of the instruction set, set by dispatch.cpp
  int64_t lanes;     // elements of Acc<S> in a vector
  bool paired;       // products multiply pairs of S, with sums of type Acc<S>
  bool tiled;        // products multiply tiles of pairs

  // How a call reads its weights. `pack` is null unless they are packed before the call. Whether forward
  // reads them in place depends on T and B, and so does the order of its sums. So it does this only if
  // `may_be` allows it.
  Weights (*forward_weights_are)(const ForwardParams<S>&, InPlace may_be);
  Weights (*backward_weights_are)(const BackwardParams<S>&);
  Packing<S, ForwardParams<S>> forward_weights, recurrent_weights;  // with weight_ih, and without
  Packing<S, BackwardParams<S>> backward_weights;
  // Runs all T steps for a range of rows, or for all rows and a member's share of the units. All parts share
  // `work`. Each part owns its `member_scratch`.
  void (*forward_part)(const ForwardParams<S>&, Weights, const Acc<S>* pack, Acc<S>* work,
                       Acc<S>* member_scratch, const Part&, Barrier&);
  void (*backward_part)(const BackwardParams<S>&, const Acc<S>* pack, Acc<S>* work, const Part&,
                        Barrier&);

  // The gradients that are parallel over time: weight_ih packed for the gradient of the inputs, the number of
  // panels of [X, R], the size of a panel, packing for a range of panels, the products for a range of tiles
  // of `tile_rows` rows of the weights, and the products for a range of rows of the inputs. `scratch` has
  // gradient_scratch_size elements.
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

  // Recomputes the gates of up to kRecomputeRows rows. `scratch` has recompute_scratch_size elements.
  Packing<S, RecomputeParams<S>> recompute_weights;
  int64_t (*recompute_scratch_size)(const RecomputeParams<S>&);
  void (*recompute_gates)(const RecomputeParams<S>&, const Acc<S>* pack, Acc<S>* scratch,
                          int64_t begin, int64_t end);

  void (*round)(S* to, const Acc<S>* from, int64_t n);

  // step_x_sums: sums over x for several steps of a layer, units [begin, end). The other functions run one
  // step: its inputs; units [begin, end) for all rows; the projection of a range of rows. The last two write
  // the state.
  void (*step_x_sums)(const SumsOfXParams<S>&, int64_t begin, int64_t end);
  void (*step_inputs)(const StepParams<S>&, const S* before);
  void (*step_units)(const StepParams<S>&, int64_t begin, int64_t end);
  void (*step_project)(const StepParams<S>&, int64_t begin, int64_t end);
};

using heuristics::kRecomputeRows;

// Elements between rows of n numbers. Rows whose length is a multiple of half a page would all map to a few
// sets of L1, so a tile that reads a dozen of them together would always miss. Such rows get one more cache
// line.
constexpr int64_t kMostSpread = 64;  // upper bound of the added elements
template <class X>
constexpr int64_t spread_row(int64_t n) {
  constexpr int64_t kHalfPage = 2048, kLine = 64;
  return n * int64_t(sizeof(X)) % kHalfPage == 0 ? n + kLine / int64_t(sizeof(X)) : n;
}

// Tiles read whole tiles. Rows end in zeros, at most this many elements of Acc<S>, and tiles may read at most
// this many rows past the last.
constexpr int64_t kTileSide = 16;

// Elements of Acc<S> that all parts of a call need for h, c and their gradients.
template <class S>
int64_t work_size(const SequenceParams<S>& p) {
  const int64_t last = p.weight_hr ? kTileSide * (std::max(p.H, p.P) + kTileSide) : 0;
  return p.B * (4 * p.P + 2 * kMostSpread + 2 * p.H + kTileSide) + last;
}

constexpr int64_t kSumLength = 256;  // long sums are sums of sums over this many numbers

// Forward processes the inputs of several steps at once. It takes all steps if they have at most kInputRows
// rows in total. Otherwise it takes as many steps as make about a hundred rows, at least one.
using heuristics::kInputRows;
inline int64_t input_steps(int64_t T, int64_t rows, bool tiled) {
  if (T * rows <= kInputRows) return T;
  return std::clamp<int64_t>((tiled ? kInputRows : kInputRows / 2) / rows, 1, T);
}
// Elements of Acc<S> for the inputs of a step: (B, I + P) numbers. Tiles store pairs, in fewer than two
// columns per row.
template <class S>
int64_t step_size(int64_t B, int64_t I, int64_t P) {
  return B * (I + P + 4 * kTileSide) + kTileSide;
}

// Elements between rows of the gradients of the gates, in the type that products multiply; and their total
// size.
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

// Elements that one part of forward needs as member_scratch, for at most the given number of rows: inputs,
// their products, and one panel. Fewer rows can need more in total, since more steps fit.
template <class S>
int64_t member_scratch_size(const Kernels<S>& kernel, const ForwardParams<S>& p, int64_t rows) {
  const int64_t lanes = kernel.lanes, units = (p.H + lanes - 1) / lanes * lanes;
  const int64_t most = std::min(p.T * rows, std::max(rows, kInputRows));
  return most * (p.I + kMostSpread + 4 * units) + 4 * lanes * (std::max(p.I, p.P) + kTileSide);
}

// The table for this machine: the best supported instruction set, or the set that the environment variable
// STATEFUL_LSTM_CPU names ("portable", "pairs", "tiles", "avx2", "avx512", "avx512bf16", "amx"). Throws
// std::runtime_error if this machine does not support it.
template <class S>
const Kernels<S>& kernels();

// The names of all instruction sets that this machine supports, best first, separated by commas.
std::string available_names();

// Defined in isa/*.cpp.
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
