// A block's share of a product: some rows by some units, N columns for each unit (4 gates, or 1).
//
// Two variants with one interface, so that the code after a product is written once:
//   Simt    any type; a thread owns R rows of one unit; sums in Acc<S>;
//   Tensor  16-bit numbers, or float as TF32; a warp owns 16 M rows of 8 units, and one thread has all four gates of a
//           unit, so that gates and cells follow in registers.
// Both load K through shared memory piece by piece and sum in the order of k, whatever the number of rows: the bits
// of a row do not depend on its neighbours.
//
// element(x), element_of(sum): a number of type S or Acc<S> as an operand of the product.
// multiply(sums, K, a, w): sums[cell][n] += sum over k < K of a(row, k) * w(n, unit, k), with row < kRows and unit <
// kUnits within the block. a and w return an Element, zero outside the operands. All threads of the block call it. It
// uses the block's shared memory, which is free before and after.
//
// accumulate does the same from shared memory that already holds both operands, in rows of the given strides. Row
// n * gate_rows + u of the weights is the column of gate n and unit u.
#pragma once
#include "cuda/numeric_types.h"

namespace stateful_lstm::cuda {

// How many tiles of `size` cover `count`.
LSTM_INLINE int64_t tiles_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <class S, int R>
struct Simt {
  using A = Acc<S>;
  using Element = A;
  static constexpr bool kTensorCores = false;
  static constexpr int kThreads = 256, kUnits = 16, kRows = kThreads / kUnits * R, kCells = R;
  static constexpr int kPiece = 32;  // of K at a time

  // Elements from one row in shared memory to the next: an odd number, so that rows start in different banks.
  static LSTM_DEVICE constexpr int stride(int64_t K) { return int(K) | 1; }
  template <int N>
  static constexpr int shared_bytes() {
    return (kRows + N * kUnits) * stride(kPiece) * int(sizeof(Element));
  }

  static LSTM_DEVICE Element element(S x) { return widen(x); }
  static LSTM_DEVICE Element element_of(A x) { return x; }
  static LSTM_DEVICE int row(int cell) { return thread() / kUnits + cell * (kThreads / kUnits); }
  static LSTM_DEVICE int unit(int) { return thread() % kUnits; }

  template <int N>
  static LSTM_DEVICE void accumulate(A (&sums)[kCells][N], const Element* rows, int row_stride,
                                     const Element* weights, int weight_stride, int gate_rows,
                                     int length) {
    for (int k = 0; k < length; ++k) {
      A x[kCells];
#pragma unroll
      for (int c = 0; c < kCells; ++c) x[c] = rows[row(c) * row_stride + k];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const A y = weights[(n * gate_rows + unit(0)) * weight_stride + k];
#pragma unroll
        for (int c = 0; c < kCells; ++c) sums[c][n] += x[c] * y;
      }
    }
  }
};

// The operand of a tensor core: numbers of one type, packed in words of 32 bits.
template <class S>
struct Word {
  using Tag = S;
  static constexpr int kNumbers = 2;
};
template <>
struct Word<float> {
  using Tag = Tf32;
  static constexpr int kNumbers = 1;
};

template <class S, int M, int Warps = 4>
struct Tensor {
  using Element = S;
  static constexpr bool kTensorCores = true;
  static constexpr int kThreads = 32 * Warps, kUnits = 8 * Warps, kRows = 16 * M, kCells = 4 * M;
  static constexpr int kNumbers = Word<S>::kNumbers, kDepth = 8 * kNumbers;  // of one instruction
  static constexpr int kPiece = 4 * kDepth;                                  // of K at a time

  // Elements from one row in shared memory to the next: whole instructions plus 4 words of padding, so that the 8 rows
  // of a fragment lie in different banks.
  static LSTM_DEVICE constexpr int stride(int64_t K) {
    return ((int(K) + 4 * kDepth - 1) / (4 * kDepth) * 32 + 4) * kNumbers;
  }
  template <int N>
  static constexpr int shared_bytes() {
    return (kRows + N * kUnits) * stride(kPiece) * int(sizeof(Element));
  }

  static LSTM_DEVICE Element element(S x) { return as_factor(x); }
  static LSTM_DEVICE Element element_of(float x) {
    S stored;
    narrow(&stored, x);
    return as_factor(stored);
  }
  static LSTM_DEVICE int group() { return thread() % 32 / 4; }
  static LSTM_DEVICE int pair() { return thread() % 4; }
  static LSTM_DEVICE int row(int cell) { return cell / 4 * 16 + group() + cell % 4 / 2 * 8; }
  static LSTM_DEVICE int unit(int cell) { return thread() / 32 * 8 + 2 * pair() + cell % 2; }

  // Both operands are padded with zeros from `length` to a multiple of an instruction's depth.
  template <int N>
  static LSTM_DEVICE void accumulate(float (&sums)[kCells][N], const Element* rows, int row_stride,
                                     const Element* weights, int weight_stride, int gate_rows,
                                     int length) {
    const uint32_t* a = reinterpret_cast<const uint32_t*>(rows);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(weights);
    const int a_stride = row_stride / kNumbers, b_stride = weight_stride / kNumbers;
    for (int word = 0; word * kNumbers < length;
         word += 8) {  // an instruction takes 8 words of a row
      uint32_t x[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const uint32_t* at = a + (16 * m + group()) * a_stride + word + pair();
        x[m][0] = at[0];
        x[m][1] = at[8 * a_stride];
        x[m][2] = at[4];
        x[m][3] = at[8 * a_stride + 4];
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const uint32_t* at =
            b + (n * gate_rows + thread() / 32 * 8 + group()) * b_stride + word + pair();
        const uint32_t y[2] = {at[0], at[4]};
#pragma unroll
        for (int m = 0; m < M; ++m) {
          float d[4] = {sums[4 * m][n], sums[4 * m + 1][n], sums[4 * m + 2][n], sums[4 * m + 3][n]};
          mma(d, x[m], y, typename Word<S>::Tag());
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[4 * m + i][n] = d[i];
        }
      }
    }
  }
};

template <class Product, int N, class A, class FromA, class FromW>
LSTM_DEVICE void multiply(A (&sums)[Product::kCells][N], int64_t K, const FromA& a,
                          const FromW& w) {
  using Element = typename Product::Element;
  constexpr int kPiece = Product::kPiece, kStride = Product::stride(kPiece);
  Element* rows = static_cast<Element*>(shared_memory());
  Element* weights = rows + Product::kRows * kStride;
  const Element nothing = Product::element_of(0);
  for (int64_t first = 0; first < K; first += kPiece) {
    for (int i = thread(); i < Product::kRows * kPiece; i += Product::kThreads) {
      const int64_t k = first + i % kPiece;
      rows[i / kPiece * kStride + i % kPiece] = k < K ? a(i / kPiece, k) : nothing;
    }
    for (int i = thread(); i < N * Product::kUnits * kPiece; i += Product::kThreads) {
      const int64_t k = first + i % kPiece;
      const int column = i / kPiece;
      weights[column * kStride + i % kPiece] =
          k < K ? w(column / Product::kUnits, column % Product::kUnits, k) : nothing;
    }
    block_barrier();
    Product::accumulate(sums, rows, kStride, weights, kStride, Product::kUnits,
                        K - first < kPiece ? int(K - first) : kPiece);
    block_barrier();  // this piece has been read
  }
}

}  // namespace stateful_lstm::cuda
