// The kernels for any processor: vectors of 16 bytes, which the compiler maps to what is there.
#include <utility>

#include "../cell.h"
#include "kernels.h"

namespace stateful_lstm::cpu::portable {
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 3;
constexpr int kDotColumns = 4;
constexpr bool kPairs = false;
constexpr const char* kName = "portable";
#include "simd.h"
// Keep this order: each builds on the one before.
#include "pack.h"
#include "panel.h"
#include "sequence.h"
#include "dots.h"
#include "forward.h"
#include "backward.h"
#include "step.h"
#include "table.h"
}  // namespace stateful_lstm::cpu::portable
