// One LSTM step, forward and backward. This is the only C++ file with the equations.
//
// Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), as in torch.nn.LSTM:
//   i = sigmoid(.)  f = sigmoid(.)  g = tanh(.)  o = sigmoid(.)      (gate order i, f, g, o)
//   c = f * c_prev + i * g
//   h = o * tanh(c)
//
// V is a number or a vector of numbers. Math supplies sigmoid(V) and tanh(V), so all vector kernels and all
// other kernels share this code. Math also supplies rounded(V), a product that the compiler must not fuse
// with a sum. In a sum of two products the compiler could fuse either product, and its choice could change
// with the number of rows.
#pragma once

#if defined(__CUDACC__)
#define LSTM_INLINE __host__ __device__ __forceinline__
#else
#define LSTM_INLINE inline __attribute__((always_inline))
#define LSTM_LAMBDA __attribute__((always_inline))
#define LSTM_APART __attribute__((noinline))  // large, with many call sites
#endif

namespace stateful_lstm {

template <class V>
struct Gates {
  V i, f, g, o;
};

// Results of the backward step: gradients of the four pre-activations and of c_prev.
template <class V>
struct CellGrad {
  Gates<V> gates;
  V c_prev;
};

template <class Math, class V>
LSTM_INLINE Gates<V> activate(const Gates<V>& pre) {
  return {Math::sigmoid(pre.i), Math::sigmoid(pre.f), Math::tanh(pre.g), Math::sigmoid(pre.o)};
}

template <class Math, class V>
LSTM_INLINE V cell_state(const Gates<V>& gate, const V& c_prev) {
  return gate.f * c_prev + Math::rounded(gate.i * gate.g);
}

template <class Math, class V>
LSTM_INLINE V hidden_state(const V& o, const V& c) {
  return o * Math::tanh(c);
}

// All gates of a step from the pre-activations of i and f, the cells and h: g = (c - f c_prev) / i, o = h /
// tanh(c).
//
// c is rounded, so the error of i g is a few units in the last place of c, however small i is. Every gradient
// multiplies g by i, except (1 - g^2), which is multiplied by i too. The error of o is a few units in its own
// last place, if tanh(c) is not zero. Math::clamp(x, limit) limits x to [-limit, limit].
template <class Math, class V>
LSTM_INLINE Gates<V> gates_from_cell(const V& pre_i, const V& pre_f, const V& c, const V& c_prev,
                                     const V& h) {
  const V i = Math::sigmoid(pre_i), f = Math::sigmoid(pre_f);
  return {i, f, Math::clamp((c - f * c_prev) / i, 1), Math::clamp(h / Math::tanh(c), 1)};
}

// gate: activated gates. c: cell of this step. dh, dc: gradients of this step's h and c.
template <class Math, class V>
LSTM_INLINE CellGrad<V> cell_backward(const Gates<V>& gate, const V& c, const V& c_prev,
                                      const V& dh, const V& dc) {
  const V tanh_c = Math::tanh(c);
  const V dc_all = dc + dh * gate.o * (1 - tanh_c * tanh_c);
  CellGrad<V> grad;
  grad.gates.i = dc_all * gate.g * gate.i * (1 - gate.i);
  grad.gates.f = dc_all * c_prev * gate.f * (1 - gate.f);
  grad.gates.g = dc_all * gate.i * (1 - gate.g * gate.g);
  grad.gates.o = dh * tanh_c * gate.o * (1 - gate.o);
  grad.c_prev = dc_all * gate.f;
  return grad;
}

}  // namespace stateful_lstm
