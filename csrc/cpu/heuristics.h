// All thresholds by which the CPU code chooses between variants that compute the same result at different speeds. They
// never change the meaning of a result. Those marked "order" choose between two orders of one sum.
//
// Each comment names the unit first, then the source of the value. Units: "multiply-adds" of single numbers; "vectors"
// of the instruction set in use; "cycles" of a thread that multiplies two vectors per cycle. "Found by: command" names
// the committed program that shows a threshold's effect, for its whole section. "By hand" means that a few values were
// compared when the code was written; no committed command repeats the comparison. Sizes of tiles and buffers stay with
// their kernels, and limits of memory in runtime/scratch_memory.h.
#pragma once
#include <cstdint>

namespace stateful_lstm::cpu::heuristics {

// Threads and shares of work.

// Multiply-adds of a call for each thread, about 20 us. By hand.
constexpr int64_t kCallWork = 1 << 18;
// Multiply-adds of a single step for each thread. By hand.
constexpr int64_t kStepWork = 1 << 16;
// Multiply-adds of a share of the weight gradients. By hand.
constexpr int64_t kGradientWork = 1 << 17;
// Packed numbers for each thread that packs a common copy. By hand.
constexpr int64_t kPackWork = 1 << 16;
// Numbers rounded by one thread. By hand.
constexpr int64_t kRoundWork = 1 << 16;
// Multiply-adds that take as long as packing one number. By hand.
constexpr int64_t kPackCost = 4;
// Grain of parallel_for for one member of a team. Not a threshold, only large.
constexpr int64_t kTeamShare = 1 << 20;
// Bytes of a step's inputs that one thread prepares for all. By hand.
constexpr int64_t kInputsByOne = 8192;
// Divisor of a step's units: the calling thread gets 1/16 fewer, since it also runs Python. By hand.
constexpr int64_t kCallerShare = 16;
// Units: upper limit of that reduction. By hand.
constexpr int64_t kCallerLess = 8;

// Rows or units (runtime/partition.h). Found by: python -m benchmarks.studies.partition

// Bytes of weights that stay in a core's own cache.
constexpr double kNearBytes = 700 << 10;
// Bytes of weights that fit in no shared cache.
constexpr double kFarBytes = 8 << 20;
// Cycles of a barrier for each member. Midpoint of fast and slow runs.
constexpr double kMeetingCycles = 500;
// Cycles for each of the first cache lines from another core.
constexpr double kFirstLineCycles = 150;
// Cycles for each further line, which the hardware prefetches.
constexpr double kNextLineCycles = 40;
// Cache lines that count as the first lines.
constexpr double kFirstLines = 64;
// Cycles to pack one vector of weights.
constexpr double kPackCycles = 10;
// Cycles to read one vector of weights from a shared cache, at most, and from memory.
constexpr double kSharedReadCycles = 3, kMemoryReadCycles = 5;
// Multiply-adds that take as long as a cell, for each unit and gate. By hand.
constexpr int64_t kCellWork = 16;
// Cycles of the cell for one vector of units.
constexpr double kCellCycles = 90;
// Units that keep one member's multipliers busy.
constexpr int64_t kColumnsOfMember = 32;
// AMX: rows that keep one member busy. By hand.
constexpr int64_t kTileRowsOfMember = 6;
// AMX: vectors of a member's step that repay a barrier. By hand.
constexpr int64_t kTileStepVectors = 1 << 11;
// AMX: bytes of weights that are too large to read twice per step. By hand.
constexpr int64_t kTileHeavyBytes = int64_t{1} << 20;

// Packed weights (runtime/layer.cpp, cpu/forward.h). Found by: python -m benchmarks.studies.packing

// Rows * steps of a thread that repay a private pack of a larger matrix.
constexpr int64_t kPrivatePackRows = 256;
// Numbers of all private packs together.
constexpr int64_t kPrivatePackSize = int64_t{1} << 20;
// Times as many numbers with kPrivatePackRows.
constexpr int64_t kPrivatePackGain = 4;
// Rows of a batch, at most, to read weights in place (order).
constexpr int64_t kInPlaceRows = 4;
// Rows * steps, at most, to read weights in place (order), if the layer also has kInPlaceBytes.
constexpr int64_t kInPlaceSteps = 40;
// Bytes of the layer's weights for each of these rows * steps (order).
constexpr int64_t kInPlaceBytes = 24 << 10;
// Bytes of the layer's weights for each row * step, with any number of them (order).
constexpr int64_t kInPlaceLargeBytes = 128 << 10;
// Bytes of weight_hh that suffice alone to read weights in place (order).
constexpr int64_t kInPlaceRecurrentBytes = 8 << 20;
// Rows, at most, to transpose weights in registers instead of packing them. By hand.
constexpr int64_t kTurnedRows = 3;
// Rows, at most, to read weight_hh in place in a single step. By hand.
constexpr int64_t kBackwardInPlaceRows = 16;
// Rows * steps, at most, to read weight_ih in place. By hand.
constexpr int64_t kGradientInPlaceRows = 16;

// Layers side by side (run_layers). Found by: python -m benchmarks.cpu.bench, rows with several layers

// Steps of a layer between two waits: whole tiles of inputs.
constexpr int64_t kWindowSteps = 24;
// Windows: fewer leave members idle.
constexpr int64_t kFewWindows = 3;
// Windows: more only wait more often.
constexpr int64_t kMostWindows = 48;

// Blocks that stay in a cache. By hand.

// Rows of inputs whose sums are computed at once. Half as many without AMX.
constexpr int64_t kInputRows = 192;
// Rows whose gradients of gates stay in L2.
constexpr int64_t kGradientInputRows = 192;
// Bytes of a step's inputs that stay in L1, beside some weights.
constexpr int64_t kNearInputBytes = 32 << 10;
// Bytes of packed [X, R] that stay in L2 while gradients are written by rows.
constexpr int64_t kNearRowsBytes = 1 << 18;
// Squares of weights: the prefetch distance.
constexpr int64_t kAheadSquares = 6;

// Gates from cells (cpu/recompute_gates.h). Found by: python -m benchmarks.studies.recompute

// Rows of a block: whole tiles, whose sums stay in L1 or close to it.
constexpr int64_t kRecomputeRows = 96;

// Single steps (runtime/stateful_inference.cpp). By hand.

// Steps of a call, at most, that run one by one with weights in place.
constexpr int64_t kFewSteps = 4;
// Ratio: a row of weight_ih is at least this many times as long as the sums that it leaves.
constexpr int64_t kManyOfRows = 8;

// Waiting (cpu/thread_team.cpp). By hand.

// Pauses before a thread yields, about 10 us.
constexpr int kSpins = 4000;
// Milliseconds before a waiting thread does all the work alone.
constexpr int kGatherMilliseconds = 20;

}  // namespace stateful_lstm::cpu::heuristics
