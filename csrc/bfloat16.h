// bfloat16 in memory, the type of sums that belongs to each parameter type, and conversions of single numbers. Vectors
// of them: cpu/simd.h and cuda/numeric_types.h.
#pragma once
#include <cstdint>
#include <cstring>

namespace stateful_lstm {

struct bfloat16 {  // the upper half of a float
  uint16_t bits;
};

template <class S>
struct AccOf {
  using type = S;
};
template <>
struct AccOf<bfloat16> {
  using type = float;
};
template <class S>
using Acc = typename AccOf<S>::type;

// One sum as a parameter: to nearest, ties to even; NaN stays NaN.
template <class S>
S narrow(Acc<S> x) {
  return x;
}
template <>
inline bfloat16 narrow<bfloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>(x == x ? rounded : bits >> 16 | 0x40)};
}

}  // namespace stateful_lstm
