// Vectors of numbers for one instruction set, and the two functions that an LSTM needs: sigmoid and tanh.
//
// Do not include standard headers here. Their inline functions would be compiled for this instruction set,
// and the linker might keep that copy for all processors.
#pragma once
#include "cpu/isa/alone.h"

namespace stateful_lstm::cpu::LSTM_ISA {

// Hides a register value from the compiler's optimizer.
#if defined(LSTM_HIDE)  // set by an isa file whose vectors fit no register
#elif defined(__AVX512F__)
#define LSTM_HIDE(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define LSTM_HIDE(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define LSTM_HIDE(v) __asm__("" : "+w"(v))
#else
#define LSTM_HIDE(v) (void)v
#endif

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t ints __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t uints __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t ints __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t uints __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vec = typename VectorOf<A>::type;
template <class A>
constexpr int64_t kLanes = kVectorBytes / sizeof(A);

template <class A>
LSTM_INLINE Vec<A> broadcast(A x) {
  return x - Vec<A>{};
}

// a * b + c, rounded once where the processor supports it. Each instruction set's file defines it. If the
// compiler chose the operations to fuse, its choice could differ between the rows of a tile, and so could
// their last bits.
LSTM_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c);
LSTM_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c);

template <class To, class From>
LSTM_INLINE To bit_cast(const From& x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

// Loads or stores the first n lanes of a vector (fewer than all) with one instruction. The instruction set's
// file defines these functions if it sets `kMasked`, and rounding of a vector to bfloat16 if it sets
// `kNarrows`.
typedef uint16_t HalfInts __attribute__((vector_size(kVectorBytes / 2)));
LSTM_INLINE Vec<float> load_first(const float* p, int64_t n);
LSTM_INLINE Vec<double> load_first(const double* p, int64_t n);
LSTM_INLINE HalfInts load_first(const uint16_t* p, int64_t n);
LSTM_INLINE void store_first(float* p, const Vec<float>& v, int64_t n);
LSTM_INLINE void store_first(double* p, const Vec<double>& v, int64_t n);
LSTM_INLINE void store_first(uint16_t* p, const HalfInts& v, int64_t n);
LSTM_INLINE HalfInts narrowed(const Vec<float>& v);

// Loads and stores of a full vector, or of its first n lanes (the other lanes read as zero).
template <class A>
LSTM_INLINE Vec<A> load(const A* p) {
  Vec<A> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LSTM_INLINE Vec<float> widened(const HalfInts& v) {
  return bit_cast<Vec<float>>(__builtin_convertvector(v, VectorOf<float>::uints) << 16);
}
LSTM_INLINE Vec<float> load(const bfloat16* p) {
  HalfInts v;
  __builtin_memcpy(&v, p, sizeof v);
  return widened(v);
}
// Two vectors from one load: the numbers at even positions and at odd positions.
struct Halves {
  Vec<float> even, odd;
};
LSTM_INLINE Halves load_halves(const bfloat16* p) {
  VectorOf<float>::uints v;
  __builtin_memcpy(&v, p, sizeof v);
  return {bit_cast<Vec<float>>(v << 16), bit_cast<Vec<float>>(v & 0xffff0000u)};
}
// Adjacent pairs of bfloat16: a full vector, or the first n numbers and then zeros. The file of an
// instruction set that multiplies such pairs defines add_pairs and sets kPairs to true.
struct Pair {
  bfloat16 first, second;
};
using Pairs = VectorOf<float>::uints;
LSTM_INLINE Pairs first_pairs(const bfloat16* p, int64_t n);  // like load_first
LSTM_INLINE Pairs load(const Pair* p) {
  Pairs v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
LSTM_INLINE void store(Pair* p, const Pairs& v) {
  __builtin_memcpy(static_cast<void*>(p), &v, sizeof v);
}
LSTM_INLINE void store(Pair* p, const Pairs& v, int64_t n) {
  __builtin_memcpy(static_cast<void*>(p), &v, n < kLanes<float> ? n * sizeof *p : sizeof v);
}
LSTM_INLINE Pairs broadcast(Pair x) { return bit_cast<uint32_t>(x) + Pairs{}; }
LSTM_INLINE Pairs load_pairs(const bfloat16* p, int64_t n) {
  Pairs v;
  constexpr int64_t all = sizeof v / sizeof *p;
  if (n >= all) {
    __builtin_memcpy(&v, p, sizeof v);
  } else if constexpr (kMasked && kPairs) {
    v = first_pairs(p, n);
  } else {
    bfloat16 padded[all] = {};
    for (int64_t k = 0; k < n; ++k) padded[k] = p[k];
    __builtin_memcpy(&v, padded, sizeof v);
  }
  return v;
}
LSTM_INLINE Vec<float> add_pairs(const Vec<float>& sum, const Pairs& a, const Pairs& b);

// The factors that products multiply: numbers of type Acc<S>, or pairs of bfloat16.
template <class S>
constexpr bool kPaired = kPairs && sizeof(S) == sizeof(bfloat16);
// Tiles. The file of an instruction set with tiles sets kTiled to true and defines these: microkernel_amx.h.
template <class S>
constexpr bool kTiles = kTiled && kPaired<S>;
LSTM_INLINE void tile_shape(int64_t rows, int64_t columns);
LSTM_INLINE void tile_release();
template <int tile>
LSTM_INLINE void tile_zero();
template <int tile>
LSTM_INLINE void tile_load(const void* from, int64_t row);  // `row`: bytes between rows
template <int tile>
LSTM_INLINE void tile_store(void* to, int64_t row);
template <int sums, int a, int b>
LSTM_INLINE void tile_multiply();

template <class S>
using Factor = std::conditional_t<kPaired<S>, Pair, Acc<S>>;
template <class F>
constexpr int64_t kNumbers = 1;  // numbers per factor
template <>
constexpr int64_t kNumbers<Pair> = 2;
// factors: the number of factors for n numbers. depth_of: the number of factors that products process,
// rounded up to whole tiles.
template <class S>
constexpr int64_t factors(int64_t n) {
  return kPaired<S> ? (n + 1) / 2 : n;
}
template <class S>
constexpr int64_t depth_of(int64_t n) {
  return kTiles<S> ? (factors<S>(n) + kTileSide - 1) / kTileSide * kTileSide : factors<S>(n);
}
LSTM_INLINE Vec<float> multiply_add(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return fused(a, b, c);
}
LSTM_INLINE Vec<double> multiply_add(const Vec<double>& a, const Vec<double>& b,
                                     const Vec<double>& c) {
  return fused(a, b, c);
}
template <class Ints>  // Pairs, if the instruction set has the product
LSTM_INLINE Vec<float> multiply_add(const Ints& a, const Ints& b, const Vec<float>& c) {
  return add_pairs(c, a, b);
}
template <class A>
LSTM_INLINE void store(A* p, const Vec<A>& v) {
  __builtin_memcpy(p, &v, sizeof v);
}
// Rounds to bfloat16: to nearest, ties to even. NaN stays NaN.
LSTM_INLINE HalfInts to_half(const Vec<float>& v) {
  if constexpr (kNarrows) {
    return narrowed(v);
  } else {
    using Bits = VectorOf<float>::uints;
    const Bits bits = bit_cast<Bits>(v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits result = v == v ? rounded : (bits >> 16) | 0x40;
    return __builtin_convertvector(result, HalfInts);
  }
}
LSTM_INLINE void store(bfloat16* p, const Vec<float>& v) {
  const HalfInts narrow = to_half(v);
  __builtin_memcpy(static_cast<void*>(p), &narrow, sizeof narrow);
}
template <class S>
LSTM_INLINE Vec<Acc<S>> load(const S* p, int64_t n) {
  if (n >= kLanes<Acc<S>>) return load(p);
  if constexpr (!kMasked) {
    S padded[kLanes<Acc<S>>] = {};
    for (int64_t k = 0; k < n; ++k) padded[k] = p[k];
    return load(static_cast<const S*>(padded));
  } else if constexpr (sizeof(S) == sizeof(uint16_t)) {
    return widened(load_first(reinterpret_cast<const uint16_t*>(p), n));
  } else {
    return load_first(p, n);
  }
}
template <class S>
LSTM_INLINE void store(S* p, const Vec<Acc<S>>& v, int64_t n) {
  if (n >= kLanes<Acc<S>>) return store(p, v);
  if constexpr (!kMasked) {
    S padded[kLanes<Acc<S>>];
    store(static_cast<S*>(padded), v);
    for (int64_t k = 0; k < n; ++k) p[k] = padded[k];
  } else if constexpr (sizeof(S) == sizeof(uint16_t)) {
    store_first(reinterpret_cast<uint16_t*>(p), to_half(v), n);
  } else {
    store_first(p, v, n);
  }
}

// The last n numbers of K (fewer than a vector), in some lanes, with zeros in the other lanes. The lanes
// depend only on n and K.
template <class S>
LSTM_INLINE Vec<Acc<S>> load_end(const S* p, int64_t K, int64_t n) {
  using A = Acc<S>;
  using Ints = typename VectorOf<A>::ints;
  using Int = std::conditional_t<sizeof(A) == sizeof(int32_t), int32_t, int64_t>;
  constexpr int lanes = kLanes<A>;
  if (K < lanes) return load(p + K - n, n);
  Ints place;
  for (int l = 0; l < lanes; ++l) place[l] = l;
  const Ints wanted = place >= static_cast<Int>(lanes - n);
  return bit_cast<Vec<A>>(bit_cast<Ints>(load(p + K - lanes)) & wanted);
}

// Converts one number to and from type Acc<S>.
LSTM_INLINE float widen(bfloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
LSTM_INLINE float widen(float x) { return x; }
LSTM_INLINE double widen(double x) { return x; }

// The value after a store and a load. h is rounded like this at every step, so a sequence gives the same
// numbers in one call or in many.
template <class S>
LSTM_INLINE Vec<Acc<S>> round_to(const Vec<Acc<S>>& v) {
  if constexpr (sizeof(S) < sizeof(Acc<S>))
    return widened(to_half(v));
  else
    return v;
}

// Transposes a square of numbers: row[l] lane k <-> row[k] lane l. Each round takes rows that are `distance`
// apart and swaps the blocks of `distance` lanes on the wrong side of the diagonal.
template <class A, int... index>  // lanes of a, then of b
LSTM_INLINE Vec<A> pick(const Vec<A>& a, const Vec<A>& b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, index...);
#else
  return __builtin_shuffle(a, b, typename VectorOf<A>::ints{index...});
#endif
}
template <class A, int distance, int... lane>
LSTM_INLINE void transpose_round(Vec<A>* row, std::integer_sequence<int, lane...> all) {
  constexpr int lanes = kLanes<A>;
  if constexpr (distance < lanes) {
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l)
      if ((l & distance) == 0) {
        const Vec<A> a = row[l], b = row[l + distance];
        row[l] = pick<A, (lane & distance ? lane - distance + lanes : lane)...>(a, b);
        row[l + distance] = pick<A, (lane & distance ? lane + lanes : lane + distance)...>(a, b);
      }
    transpose_round<A, 2 * distance>(row, all);
  }
}
template <class A>
LSTM_INLINE void transpose(Vec<A> (&row)[kLanes<A>]) {
  transpose_round<A, 1>(row, std::make_integer_sequence<int, kLanes<A>>{});
}

// The numbers at even or at odd positions of two concatenated vectors.
template <class A, int odd, int... lane>
LSTM_INLINE Vec<A> every_second(const Vec<A>& a, const Vec<A>& b,
                                std::integer_sequence<int, lane...>) {
  return pick<A, (2 * lane + odd)...>(a, b);
}
template <class A, int odd>
LSTM_INLINE Vec<A> every_second(const Vec<A>& a, const Vec<A>& b) {
  return every_second<A, odd>(a, b, std::make_integer_sequence<int, kLanes<A>>{});
}

// Sums along the rows: lane l of the result is the sum of row[l]. Each round takes two rows that are
// `distance` apart, adds the lower blocks of `distance` lanes of each row to its upper blocks, and puts the
// two results side by side. The first row of each pair continues. Lanes that do not move are blended: more
// units of a processor can blend than move lanes. The first rounds need only N rows and combine them into
// one: fold_rows. The remaining rounds combine the folded rows: row_sums.
template <class A, int distance, int end, int... lane>
LSTM_INLINE void sum_round(Vec<A>* row, std::integer_sequence<int, lane...> all) {
  constexpr int lanes = kLanes<A>;
  if constexpr (distance < end) {
#pragma GCC unroll 16
    for (int l = 0; l < end; l += 2 * distance) {
      const Vec<A> a = row[l], b = row[l + distance];
      row[l] = pick<A, (lane & distance ? lane + lanes : lane)...>(a, b) +
               pick<A, (lane & distance ? lane - distance + lanes : lane + distance)...>(a, b);
    }
    sum_round<A, 2 * distance, end>(row, all);
  }
}
template <class A, int N>
LSTM_INLINE Vec<A> fold_rows(Vec<A> (&row)[N]) {
  sum_round<A, 1, N>(row, std::make_integer_sequence<int, kLanes<A>>{});
  return row[0];
}
template <class A, int N>
LSTM_INLINE Vec<A> row_sums(const Vec<A> (&folded)[kLanes<A> / N]) {
  constexpr int lanes = kLanes<A>;
  Vec<A> row[lanes];
#pragma GCC unroll 16
  for (int n = 0; n < lanes; n += N) row[n] = folded[n / N];
  sum_round<A, N, lanes>(row, std::make_integer_sequence<int, lanes>{});
  return row[0];
}

// exp(x) = 2^n (1 + q), with n = round(x / ln 2), r = x - n ln 2 and q = expm1(r) by its Taylor series. |r|
// <= ln(2)/2, so the first omitted term is below half a unit in the last place. q is kept separate from 1,
// which gives tanh its relative accuracy near zero.
template <class A>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float log2e = 1.44269504088896341f, ln2_hi = 0.693359375f,
                         ln2_lo = -2.12194440e-4f, magic = 12582912.f, limit = 87.f;
  static constexpr int mantissa = 23, bias = 127, degree = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double log2e = 1.44269504088896341, ln2_hi = 0.693145751953125,
                          ln2_lo = 1.42860682030941723212e-6, magic = 6755399441055744.,
                          limit = 708.;
  static constexpr int mantissa = 52, bias = 1023, degree = 13;
};

constexpr double kInverseFactorial[] = {1.,
                                        1.,
                                        1. / 2,
                                        1. / 6,
                                        1. / 24,
                                        1. / 120,
                                        1. / 720,
                                        1. / 5040,
                                        1. / 40320,
                                        1. / 362880,
                                        1. / 3628800,
                                        1. / 39916800,
                                        1. / 479001600,
                                        1. / 6227020800.};

template <class A>
struct Math {
  using V = Vec<A>;
  struct Exp {
    V scale, q;
  };

  static LSTM_INLINE V rounded(const V& product) {
    V alone = product;
    LSTM_HIDE(alone);
    return alone;
  }

  // Limits x to [-limit, limit]. NaN stays NaN, since comparisons with it are false. The compiler must not
  // see the value of the limit: it would emit two instructions instead of one.
  static LSTM_INLINE V clamp(const V& at, A limit) {
    V upper = broadcast<A>(limit);
    LSTM_HIDE(upper);
    const V x = at > upper ? upper : at;
    const V lower = -upper;
    return x < lower ? lower : x;
  }

  // The sum of r^(k - first) / k! for k in [first, last], added as pairs, pairs of pairs and so on. This
  // keeps the chain of dependent operations short. power[m] is r^(2^m).
  template <int first, int last>
  static LSTM_INLINE V series(const V (&power)[4]) {
    constexpr int count = last - first + 1;
    if constexpr (count == 1) {
      return broadcast<A>(A(kInverseFactorial[first]));
    } else {
      constexpr int level = count > 8 ? 3 : count > 4 ? 2 : count > 2 ? 1 : 0;
      constexpr int middle = first + (1 << level);
      return series<first, middle - 1>(power) + power[level] * series<middle, last>(power);
    }
  }

  static LSTM_INLINE Exp exp_parts(const V& at, A limit = ExpConstants<A>::limit) {
    using K = ExpConstants<A>;
    using Bits = typename VectorOf<A>::uints;
    const V x = clamp(at, limit);
    const V shifted = x * K::log2e + K::magic;  // the low bits of the mantissa hold n
    const V n = shifted - K::magic;
    const V r = (x - n * K::ln2_hi) - n * K::ln2_lo;
    const V r2 = r * r, r4 = r2 * r2;
    const V q = r * series<1, K::degree>({r, r2, r4, r4 * r4});
    const Bits exponent = (bit_cast<Bits>(shifted) + K::bias) << K::mantissa;
    return {bit_cast<V>(exponent), q};
  }

  static LSTM_INLINE V sigmoid(const V& x) {
    const Exp e = exp_parts(-x);
    return 1 / (1 + (e.scale * e.q + e.scale));
  }

  static LSTM_INLINE V tanh(const V& x) {  // expm1(2x) / (expm1(2x) + 2)
    const Exp e = exp_parts(2 * x, 40);    // tanh(20) is 1 in double
    const V expm1 = e.scale * e.q + (e.scale - 1);
    return expm1 / (expm1 + 2);
  }
};

}  // namespace stateful_lstm::cpu::LSTM_ISA
