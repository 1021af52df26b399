// Every threshold by which the CPU side chooses between routes that give a result at different speeds. None of them
// changes the meaning of a result; those marked "order" choose between two orders of one sum.
//
// Units: "multiply-adds" of one number; "vectors" of the instruction set in use; "cycles" of a thread that multiplies
// two vectors in each cycle. "found by: command" names the committed program that shows the threshold's effect.
// "By hand" means that a few values were compared when the code was written, and that no committed command repeats it.
#pragma once
#include <cstdint>

namespace stateful_lstm::cpu::heuristics {

// Threads and shares of work.
constexpr int64_t kCallWork =
    1 << 18;  // multiply-adds of a call for each thread, about 20 us; by hand
constexpr int64_t kStepWork = 1 << 16;  // multiply-adds of a single step for each thread; by hand
constexpr int64_t kGradientWork =
    1 << 17;  // multiply-adds of a share of the weights' gradients; by hand
constexpr int64_t kPackWork =
    1 << 16;  // packed numbers for each thread that packs for all; by hand
constexpr int64_t kRoundWork = 1 << 16;  // numbers rounded by one thread; by hand
constexpr int64_t kPackCost = 4;  // multiply-adds that take as long as packing one number; by hand
constexpr int64_t kTeamShare =
    1 << 20;  // parallel_for's grain for a member of a team: no threshold, only large
constexpr int64_t kInputsByOne =
    8192;  // bytes of a step's inputs that one thread prepares for all; by hand
constexpr int64_t kCallerShare =
    16;  // the calling thread has 1/16 fewer units of a step: it also runs Python; by hand
constexpr int64_t kCallerLess = 8;  // units fewer at most; by hand

// Rows or units (runtime/partition.h). Found by: python -m benchmarks.studies.partition
constexpr double kNearBytes = 700 << 10;  // bytes of weights that stay in a core's own cache
constexpr double kFarBytes = 8 << 20;     // bytes of weights that fit in no shared cache
constexpr double kMeetingCycles =
    500;  // cycles of a barrier for each member: midpoint of fast and slow runs
constexpr double kFirstLineCycles =
    150;  // cycles for each of the first cache lines from another core
constexpr double kNextLineCycles =
    40;                             // cycles for each line after them, since they are fetched ahead
constexpr double kFirstLines = 64;  // cache lines that count as the first ones
constexpr double kPackCycles = 10;  // cycles to pack one vector of weights
constexpr double kCellCycles = 90;  // cycles of the cell for one vector of units
constexpr int64_t kColumnsOfMember = 32;  // units that keep one member's multipliers busy
constexpr int64_t kTileRowsOfMember = 6;  // AMX: rows that keep one member busy; by hand
constexpr int64_t kTileStepVectors =
    1 << 11;  // AMX: vectors of a member's step that are worth a barrier; by hand
constexpr int64_t kTileHeavyBytes =
    int64_t{1} << 20;  // AMX: bytes of weights too many to read twice a step; by hand

// Packed weights (runtime/layer.cpp, cpu/forward.h). Found by: python -m benchmarks.studies.packing
constexpr int64_t kPrivatePackRows =
    256;  // rows * steps of a thread that repay a private pack of a larger matrix
constexpr int64_t kPrivatePackSize =
    int64_t{1} << 20;                // numbers of all private packs; four times that with such rows
constexpr int64_t kInPlaceRows = 4;  // rows of a batch at most, to read weights in place (order)
constexpr int64_t kInPlaceSteps = 40;  // rows * steps at most (order), and
constexpr int64_t kInPlaceBytes =
    24 << 10;  // bytes of the layer's weights for each of them (order); or
constexpr int64_t kInPlaceLargeBytes = 128
                                       << 10;  // bytes for each, whatever their number (order); or
constexpr int64_t kInPlaceRecurrentBytes = 8
                                           << 20;  // bytes of weight_hh, whatever the rest (order)
constexpr int64_t kTurnedRows =
    3;  // rows at most, to turn weights in registers instead of packing them; by hand
constexpr int64_t kBackwardInPlaceRows =
    16;  // rows at most, to read weight_hh in place in a single step; by hand
constexpr int64_t kGradientInPlaceRows =
    16;  // rows * steps at most, to read weight_ih in place; by hand

// A stack side by side (run_layers). Found by: python -m benchmarks.cpu.bench, rows with several layers
constexpr int64_t kWindowSteps = 24;  // steps of a layer between two waits, whole tiles of inputs
constexpr int64_t kFewWindows = 3;    // fewer windows leave members idle
constexpr int64_t kMostWindows = 48;  // more windows only wait more often

// Blocks that stay in a cache. By hand.
constexpr int64_t kInputRows =
    192;  // rows of inputs whose sums are made at once; half of them without AMX
constexpr int64_t kGradientInputRows = 192;  // rows whose gradients of gates stay in L2
constexpr int64_t kNearInputBytes =
    32 << 10;  // bytes of a step's inputs that stay in L1, beside some weights
constexpr int64_t kNearRowsBytes =
    1 << 18;  // bytes of packed [X, R] that stay in L2 while gradients are written by rows
constexpr int64_t kAheadSquares = 6;  // squares of weights that are fetched ahead of their use

// Gates from cells (cpu/recompute_gates.h). Rows by: python -m benchmarks.studies.recompute
constexpr int64_t kRecomputeRows =
    96;  // rows of a block: whole tiles, whose sums stay in L1 or close to it

// Single steps (runtime/stateful_inference.cpp). By hand.
constexpr int64_t kFewSteps = 4;  // steps of a call at most that run one by one on weights in place
constexpr int64_t kManyOfRows =
    8;  // a row of weight_ih is that many times as long as the sums that it leaves behind

// Waiting (cpu/thread_team.cpp). By hand.
constexpr int kSpins = 4000;             // pauses before a thread yields, about 10 us
constexpr int kGatherMilliseconds = 20;  // before the thread that waits does all the work alone

}  // namespace stateful_lstm::cpu::heuristics
