// A block's share of a product on tensor cores, for the persistent kernels: some rows by some units. The warps split
// the depth K into slices (split-K), so that no warp has a long chain of dependent products.
//
// Both operands are stored in the order of the tensor cores' fragments (device.h), word by word: the thread that
// computes an h writes it where the reader's lane finds it, and a lane reads its part of a fragment of 16 rows with one
// load of 16 bytes. A chunk is the depth of one instruction in one part of K (forward there is one part, backward one
// for each gate). Its units are ordered for 16-bit numbers as 8 neighbours twice, for TF32 as 8 units, the even ones
// before the odd ones.
//
//   rows      (chunks, M, 32 lanes, 4 words)                           where an Exchange puts them (exchange.h)
//   weights   (Groups, chunks, vectors, 32 lanes, words of a vector)   in shared memory
//
// A warp keeps its sums in registers while it multiplies. Then the sums of all slices are added in shared memory, slice
// after slice, so that the result depends neither on the number of rows nor on the order of the warps. Each thread owns
// pairs of neighbouring units in its own lane's places.
#pragma once
#include "cuda/device.h"
#include "cuda/numeric_types.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

// One word of rows or weights.
LSTM_DEVICE uint32_t pack(const float (&x)[1]) { return bits_of(x[0]); }
template <class S>
LSTM_DEVICE uint32_t pack(const S (&x)[2]) {
  union {
    S numbers[2];
    uint32_t bits;
  } both = {{x[0], x[1]}};
  return both.bits;
}

// M * 16 rows by Groups * Tiles * 8 units. A warp has the units of one group and one slice.
template <class S, int M, int Tiles, int Groups, int Slices>
struct SplitKTile {
  using Element = S;
  static constexpr int kTiles = Tiles, kGroups = Groups, kSlices = Slices, kRowTiles = M;
  static constexpr int kWarps = Groups * Slices, kThreads = 32 * kWarps;
  static constexpr int kRows = 16 * M, kUnits = 8 * Tiles * Groups;
  static constexpr int kNumbers = Word<S>::kNumbers, kDepth = 8 * kNumbers;
  static constexpr int kSets = M * 2 * (kUnits / 8);            // of 32 pairs: 8 rows, 8 units
  static constexpr int kPairs = (kSets + kWarps - 1) / kWarps;  // of a thread, at most
  static constexpr int kFragment = 32 * 4;                      // words

  static LSTM_DEVICE int lane() { return thread() % 32; }
  static LSTM_DEVICE int group() { return thread() / 32 / Slices; }
  static LSTM_DEVICE int slice() { return thread() / 32 % Slices; }

  static LSTM_INLINE int64_t unit_chunks(int64_t H) { return (H + kDepth - 1) / kDepth; }
  // Words of all rows of a block, `parts` numbers for each unit.
  static LSTM_INLINE int64_t row_words(int64_t H, int parts) {
    return unit_chunks(H) * parts * M * kFragment;
  }
  template <int N>
  static LSTM_INLINE int64_t weight_words(int64_t H, int parts) {
    return Groups * unit_chunks(H) * parts * (N * Tiles) * 64;
  }
  // Rows of sums, N numbers for each unit. The 8 rows of a half lie in different banks: rows are padded by 8 numbers,
  // or where a row is a multiple of all banks, each row has its columns (of 8) in another order.
  template <int N>
  static constexpr bool kTurned = N * kUnits % 32 == 0;
  template <int N>
  static constexpr int kSumStride = N * kUnits + (kTurned<N> ? 0 : 8);
  template <int N>
  static constexpr int kSumWords = Slices > 1 ? Slices * 16 * kSumStride<N> : 0;
  template <int N>
  static LSTM_DEVICE int sum_place(int row, int column) {
    return row * kSumStride<N> + (kTurned<N> ? column ^ row % 4 : column) * 8 + lane() % 4 * 2;
  }

  // The place of the pair `unit`, `unit + 1` of `row` in the rows' words, in `part`: one word of two 16-bit numbers, or
  // the first of two words of TF32.
  static LSTM_DEVICE int64_t place_of(int row, int64_t unit, int part, int parts) {
    const int64_t chunk = unit / kDepth * parts + part;
    const int which = kNumbers == 2 ? int(unit % 16) / 8 : 0;
    return ((chunk * M + row / 16) * 32 + row % 8 * 4 + unit % 8 / 2) * 4 + row % 16 / 8 * 2 +
           which;
  }
};

// The pair i that a thread owns: 8 rows and 8 units of the block, and in them the lane's row and two units.
template <class Product>
struct PairPlace {
  bool there;
  int row_tile, tile, half;  // of 16 rows, of 8 units, of a row tile
  LSTM_DEVICE explicit PairPlace(int i) {
    int set;
    if constexpr (Product::kSlices == 1) {  // the warp's own sums
      const int tile_of_group = i / 2 % Product::kTiles;
      row_tile = i / 2 / Product::kTiles;
      tile = Product::group() * Product::kTiles + tile_of_group;
      half = i % 2;
      there = true;
    } else {
      set = thread() / 32 + i * Product::kWarps;
      row_tile = set / 2 / (Product::kUnits / 8);
      tile = set / 2 % (Product::kUnits / 8);
      half = set % 2;
      there = set < Product::kSets;
    }
  }
  LSTM_DEVICE int row() const { return row_tile * 16 + half * 8 + Product::lane() / 4; }
  LSTM_DEVICE int unit() const { return tile * 8 + Product::lane() % 4 * 2; }
};

// A block's shared memory: the weights of its units, N columns for each, and as many biases; the sums of the slices;
// and two buffers of rows, unless blocks exchange them through memory.
template <class Product, int N>
struct SplitKShared {
  static constexpr int kColumns = N * Product::kTiles;  // of 8, of a warp
  static constexpr int kVector = kColumns % 2 == 0 ? 4 : 2, kVectors = kColumns * 2 / kVector;
  // Row tiles whose sums a warp keeps in registers: at most 64 sums, or registers would spill.
  static constexpr int kAtOnce =
      Product::kRowTiles * kColumns > 16 ? Product::kRowTiles / 2 : Product::kRowTiles;
  int parts;
  int64_t H, chunks, row_words;
  uint32_t *weights, *rows;
  float *bias, *sums;  // bias: (N, kUnits)

  LSTM_DEVICE SplitKShared(int64_t all, int all_parts)
      : parts(all_parts),
        H(all),
        chunks(Product::unit_chunks(all) * all_parts),
        row_words(Product::row_words(all, all_parts)) {
    weights = static_cast<uint32_t*>(shared_memory());
    bias = reinterpret_cast<float*>(weights + Product::template weight_words<N>(H, parts));
    sums = bias + N * Product::kUnits;
    rows = reinterpret_cast<uint32_t*>(sums + Product::template kSumWords<N>);
  }
  static int64_t bytes(int64_t H, int parts, bool with_rows) {
    return 4 *
           (Product::template weight_words<N>(H, parts) + N * Product::kUnits +
            Product::template kSumWords<N> + (with_rows ? 2 * Product::row_words(H, parts) : 0));
  }

  // weight(n, unit of the block, part, unit of K), called for existing units only.
  template <class Weight>
  LSTM_DEVICE void fill(int64_t unit0, const Weight& weight) const {
    using S = typename Product::Element;
    const int lane = Product::lane(), pair = lane % 4, all = int(chunks);
    for (int at = thread() / 32; at < Product::kGroups * all; at += Product::kWarps) {
      const int chunk = at % all, group = at / all, part = chunk % parts;
      const int64_t first = int64_t(chunk / parts) * Product::kDepth;  // of the chunk, in units
#pragma unroll
      for (int word = 0; word < 2 * kColumns; ++word) {
        const int column = word / 2, tile = group * Product::kTiles + column / N;
        const int64_t unit = tile * 8 + lane / 4;
        S numbers[Product::kNumbers];
#pragma unroll
        for (int n = 0; n < Product::kNumbers; ++n) {
          const int64_t k = Product::kNumbers == 2 ? first + word % 2 * 8 + pair * 2 + n
                                                   : first + pair * 2 + word % 2;
          numbers[n] = zero<S>();
          if (unit0 + unit < H && k < H) numbers[n] = as_factor(weight(column % N, unit, part, k));
        }
        weights[((at * kVectors + word / kVector) * 32 + lane) * kVector + word % kVector] =
            pack(numbers);
      }
    }
  }
  LSTM_DEVICE void clear_rows() const {
    for (int64_t i = thread(); i < 2 * row_words; i += Product::kThreads) rows[i] = 0;
  }

  // The chunks of this warp's slice: from first() up to, not including, last().
  LSTM_DEVICE int64_t per_slice() const {
    return (chunks + Product::kSlices - 1) / Product::kSlices;
  }
  LSTM_DEVICE int64_t first() const {
    const int64_t at = Product::slice() * per_slice();
    return at < chunks ? at : chunks;
  }
  LSTM_DEVICE int64_t last() const {
    const int64_t end = (Product::slice() + 1) * per_slice();
    return end < chunks ? end : chunks;
  }

  // acc += this warp's slice of the rows from row tile m0 on, times the weights. load(index) gives 4 words; kBatch
  // loads are in flight at once. keep: a bit for each 8 rows, 0 where the lane's row counts as zero whatever it
  // holds.
  template <int kBatch, class Load>
  LSTM_DEVICE void multiply(float (&acc)[kAtOnce][kColumns][4], int m0, uint32_t keep,
                            const Load& load) const {
    constexpr int M = kAtOnce;
    const int lane = Product::lane();
    const int64_t end = last();
    for (int64_t begin = first(); begin < end; begin += kBatch) {
      Words x[kBatch][M];
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
#pragma unroll
        for (int m = 0; m < M; ++m)
          if (begin + b < end)
            x[b][m] = load(((begin + b) * Product::kRowTiles + m0 + m) * 32 + lane);
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (begin + b >= end) continue;
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const uint32_t* w = x[b][m].w;
          const int eight = 2 * (m0 + m);
          const uint32_t upper = 0u - (keep >> eight & 1u), lower = 0u - (keep >> (eight + 1) & 1u);
          a[m][0] = w[0] & upper;
          a[m][1] = w[2] & lower;
          a[m][2] = w[1] & upper;
          a[m][3] = w[3] & lower;
        }
        const uint32_t* at =
            weights + ((Product::group() * chunks + begin + b) * kVectors * 32 + lane) * kVector;
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          uint32_t y[kVector];
          load_vector(y, at + v * 32 * kVector);
#pragma unroll
          for (int column = 0; column < kVector / 2; ++column) {
            const uint32_t of_column[2] = {y[2 * column], y[2 * column + 1]};
#pragma unroll
            for (int m = 0; m < M; ++m)
              mma(acc[m][v * kVector / 2 + column], a[m], of_column,
                  typename Word<typename Product::Element>::Tag());
          }
        }
      }
    }
  }

  // The sums over all slices of the thread's own pairs. The caller ensures that a barrier follows before the next
  // round.
  LSTM_DEVICE void add_up(const float (&acc)[kAtOnce][kColumns][4], int m0,
                          float (&total)[Product::kPairs][N][2]) const {
    if constexpr (Product::kSlices == 1) {
#pragma unroll
      for (int i = 0; i < Product::kPairs; ++i)
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const float (&own)[4] = acc[i / 2 / Product::kTiles][i / 2 % Product::kTiles * N + n];
          total[i][n][0] = own[i % 2 * 2];
          total[i][n][1] = own[i % 2 * 2 + 1];
        }
    } else {
      constexpr int kEach = 16 * Product::template kSumStride<N>;  // of a slice
      const int row = Product::lane() / 4;
#pragma unroll
      for (int m = 0; m < kAtOnce; ++m) {
        if (m0 + m > 0) block_barrier();  // the sums of the rows before have been read
#pragma unroll
        for (int column = 0; column < kColumns; ++column)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float* at = sums + Product::slice() * kEach +
                        Product::template sum_place<N>(half * 8 + row,
                                                       Product::group() * kColumns + column);
            *reinterpret_cast<Two<float>*>(at) = {acc[m][column][half * 2],
                                                  acc[m][column][half * 2 + 1]};
          }
        block_barrier();
#pragma unroll
        for (int i = 0; i < Product::kPairs; ++i) {
          const PairPlace<Product> pair(i);
          if (!pair.there || pair.row_tile != m0 + m) continue;
#pragma unroll
          for (int n = 0; n < N; ++n) {
            const float* at =
                sums + Product::template sum_place<N>(pair.half * 8 + row, pair.tile * N + n);
            total[i][n][0] = total[i][n][1] = 0;
#pragma unroll
            for (int slice = 0; slice < Product::kSlices; ++slice) {
              const auto one = *reinterpret_cast<const Two<float>*>(at + slice * kEach);
              total[i][n][0] += one.a;
              total[i][n][1] += one.b;
            }
          }
        }
      }
    }
  }

 private:
  static LSTM_DEVICE void load_vector(uint32_t* to, const uint32_t* from) {
    if constexpr (kVector == 4) {
      const Words four = *reinterpret_cast<const Words*>(from);
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = four.w[i];
    } else {
      const auto two = *reinterpret_cast<const Two<uint32_t>*>(from);
      to[0] = two.a;
      to[1] = two.b;
    }
  }
};

}  // namespace stateful_lstm::cuda
