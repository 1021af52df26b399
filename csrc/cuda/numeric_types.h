// The number types of the CUDA kernels: conversions, rounding, and the two functions that an LSTM needs.
#pragma once
#include "lstm_equations.h"
#include "cuda/call.h"
#include "cuda/device.h"

namespace stateful_lstm::cuda {

LSTM_DEVICE float widen(float x) { return x; }
LSTM_DEVICE double widen(double x) { return x; }
LSTM_DEVICE float widen(Half x) { return __half2float(x); }
LSTM_DEVICE float widen(Bfloat16 x) { return __bfloat162float(x); }

// To nearest, ties to even.
LSTM_DEVICE void narrow(float* to, float x) { *to = x; }
LSTM_DEVICE void narrow(double* to, double x) { *to = x; }
LSTM_DEVICE void narrow(Half* to, float x) { *to = __float2half_rn(x); }
LSTM_DEVICE void narrow(Bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

template <class S>
LSTM_DEVICE S zero() {
  S x;
  narrow(&x, Acc<S>(0));
  return x;
}

// x rounded to S, as h is at every step.
template <class S>
LSTM_DEVICE Acc<S> round_to(Acc<S> x) {
  S stored;
  narrow(&stored, x);
  return widen(stored);
}

// Two numbers side by side, moved as one.
template <class T>
struct alignas(2 * sizeof(T)) Two {
  T a, b;
};

// A number as the operand of a tensor core. For TF32 the hardware reads the upper 19 bits of a float and truncates the
// rest; this rounds to nearest instead.
template <class S>
LSTM_DEVICE S as_factor(S x) {
  return x;
}
LSTM_DEVICE uint32_t bits_of(float x) {
  union {
    float number;
    uint32_t bits;
  } both = {x};
  return both.bits;
}
template <>
LSTM_DEVICE float as_factor(float x) {
  union {
    uint32_t bits;
    float number;
  } both = {bits_of(x)};
  const bool finite = (both.bits & 0x7f800000u) != 0x7f800000u;
  if (finite) both.bits = (both.bits + 0x1000u) & ~0x1fffu;
  return both.number;
}

// Hides a value from the compiler, so that it does not fuse the product into an addition.
#if defined(__CUDA_ARCH__)
LSTM_DEVICE void hide(float& x) { asm volatile("" : "+f"(x)); }
LSTM_DEVICE void hide(double& x) { asm volatile("" : "+d"(x)); }
#else
template <class A>
LSTM_DEVICE void hide(A&) {}
#endif

// The functions that lstm_equations.h needs. exp may overflow to infinity, and 1 / infinity is 0 as it should be.
template <class A>
struct Math;
template <>
struct Math<float> {
  static LSTM_DEVICE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
  static LSTM_DEVICE float tanh(float x) { return tanhf(x); }
  static LSTM_DEVICE float rounded(float product) {
    hide(product);
    return product;
  }
};
template <>
struct Math<double> {
  static LSTM_DEVICE double sigmoid(double x) { return 1. / (1. + exp(-x)); }
  static LSTM_DEVICE double tanh(double x) { return ::tanh(x); }
  static LSTM_DEVICE double rounded(double product) {
    hide(product);
    return product;
  }
};

}  // namespace stateful_lstm::cuda
