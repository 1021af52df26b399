// The two 16-bit number types under CUDA's own names, as far as the kernels use them.
#pragma once
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

namespace stateful_lstm::emulator {

template <class To, class From>
inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// value / 2^shift, to the nearest, ties to the even one.
inline uint32_t shifted_to_even(uint32_t value, int shift) {
  const uint32_t below_half = (1u << (shift - 1)) - 1;
  return (value + below_half + ((value >> shift) & 1)) >> shift;
}

}  // namespace stateful_lstm::emulator

inline float __bfloat162float(__nv_bfloat16 number) {
  return stateful_lstm::emulator::same_bits<float>(uint32_t{number.bits} << 16);
}

inline __nv_bfloat16 __float2bfloat16_rn(float number) {
  using namespace stateful_lstm::emulator;
  if (number != number) return {0x7fff};
  return {static_cast<uint16_t>(shifted_to_even(same_bits<uint32_t>(number), 16))};
}

inline float __half2float(__half number) {
  using namespace stateful_lstm::emulator;
  const uint32_t sign = uint32_t{number.bits} >> 15 << 31;
  const uint32_t exponent = number.bits >> 10 & 31;
  const uint32_t mantissa = number.bits & 0x3ffu;
  float size;
  if (exponent == 0) {
    size = static_cast<float>(mantissa) * 0x1p-24f;
  } else if (exponent == 31) {
    size = same_bits<float>(0x7f800000u | mantissa << 13);
  } else {
    size = same_bits<float>((exponent + 112) << 23 | mantissa << 13);
  }
  return same_bits<float>(same_bits<uint32_t>(size) | sign);
}

inline __half __float2half_rn(float number) {
  using namespace stateful_lstm::emulator;
  const uint32_t sign = same_bits<uint32_t>(number) >> 16 & 0x8000u;
  const uint32_t size = same_bits<uint32_t>(number) & 0x7fffffffu;
  uint32_t half;
  if (size > 0x7f800000u) {
    return {0x7fff};  // not a number
  } else if (size >= 0x477ff000u) {
    half = 0x7c00;  // halfway from the largest number to the next, or more: infinite
  } else if (size >= 0x38800000u) {
    half = shifted_to_even(size - (112u << 23), 13);
  } else if (size >= 0x33000000u) {  // below 2^-14: a multiple of 2^-24
    const int exponent = static_cast<int>(size >> 23);
    half = shifted_to_even((size & 0x7fffffu) | 0x800000u, 126 - exponent);
  } else {
    half = 0;
  }
  return {static_cast<uint16_t>(half | sign)};
}

inline uint16_t __half_as_ushort(__half number) { return number.bits; }
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 number) { return number.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) { return {bits}; }
