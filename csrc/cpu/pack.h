// Packed layout of weights for the recurrent product.
//
// A matrix W (N columns of length K) is packed into panels of kGroup = 4 vectors of columns:
//   pack[panel][2][k][2][lanes],   columns past N are zero.
// A panel is two halves of two vectors each. Where the processor multiplies pairs of bfloat16, a packed
// element is a pair of two numbers of one column, k counts pairs, and an odd last number is paired with zero.
// Where it multiplies tiles, zeros fill the last tile.
// Column j * lanes + l of panel p is n = first(p, j) + l, where first(p, j) is
//   gates:  j * H + p * lanes      (one panel holds i, f, g, o of the same units)
//   plain:  (p * 4 + j) * lanes
// If the units of the last panel of gates fill at most half a vector, i and f share a vector, and so do g and
// o: half a panel, and half the work. If they fill at most a quarter, all four share one vector, beside a
// vector of zeros.
// Every call packs its weights, so packing must cost little compared with one step's product. Vectors are
// copied, or transposed in registers if W is stored in the other order.
#pragma once
#include "cpu/simd.h"

namespace stateful_lstm::cpu::LSTM_ISA {

constexpr int64_t kGroup = 4, kHalf = 2;

// A member's share of `count` items. times(): a range in units of `each`, clipped at `most`.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
LSTM_INLINE Range share(const Part& part, int64_t count) {
  return {count * part.member / part.members, count * (part.member + 1) / part.members};
}
LSTM_INLINE Range times(const Range& range, int64_t each, int64_t most) {
  const int64_t begin = range.begin * each, end = range.end * each;
  return {begin < most ? begin : most, end < most ? end : most};
}

// W inside a weight matrix: element (k, n) is data[k * k_stride + n * n_stride]. One of the strides is 1.
template <class S>
struct Columns {
  const S* data;
  int64_t K, N, k_stride, n_stride;
  bool gates;

  int64_t units() const { return gates ? N / kGroup : N; }
  int64_t panels() const {
    const int64_t each = (gates ? 1 : kGroup) * kLanes<Acc<S>>;
    return (units() + each - 1) / each;
  }
  // The number of lanes that one gate occupies in a vector of a panel.
  int64_t gate_lanes(int64_t panel) const {
    constexpr int64_t lanes = kLanes<Acc<S>>;
    const int64_t left = units() - panel * lanes;
    if (kTiles<S> || !gates || left > lanes / 2) return lanes;
    return left > lanes / 4 ? lanes / 2 : lanes / 4;
  }
  int64_t depth() const { return depth_of<S>(K); }
  int64_t panel_size() const { return depth() * kGroup * kLanes<Acc<S>>; }
  int64_t pack_size() const { return panels() * panel_size(); }
};

// The first n numbers of a vector of factors.
template <class S>
LSTM_INLINE auto load_factors(const S* p, int64_t n) {
  if constexpr (kPaired<S>)
    return load_pairs(p, n);
  else
    return load(p, n);
}

// A transposed square of columns whose numbers are contiguous, from factor k on: row l holds factor k + l of
// each column. The square has all lanes, or only the first `live`.
template <class S>
LSTM_INLINE void load_square(Vec<Acc<S>> (&row)[kLanes<Acc<S>>], const Columns<S>& w,
                             const S* source, int64_t k) {
  constexpr int64_t lanes = kLanes<Acc<S>>, each = kNumbers<Factor<S>>;
#pragma GCC unroll 16
  for (int l = 0; l < lanes; ++l)
    row[l] = bit_cast<Vec<Acc<S>>>(load_factors(source + l * w.n_stride + each * k, each * lanes));
  transpose<Acc<S>>(row);
}
template <class S>
LSTM_INLINE void load_square(Vec<Acc<S>> (&row)[kLanes<Acc<S>>], const Columns<S>& w,
                             const S* source, int64_t k, int64_t live) {
  constexpr int64_t lanes = kLanes<Acc<S>>, each = kNumbers<Factor<S>>;
  for (int64_t l = 0; l < lanes; ++l)
    row[l] = l < live ? bit_cast<Vec<Acc<S>>>(
                            load_factors(source + l * w.n_stride + each * k, w.K - each * k))
                      : Vec<Acc<S>>{};
  transpose<Acc<S>>(row);
}

// Packs one vector of such columns. The first `live` columns exist.
template <class S>
LSTM_INLINE void pack_turned(Factor<S>* target, const Columns<S>& w, const S* source,
                             int64_t live) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, step = kHalf * lanes, each = kNumbers<Factor<S>>;
  const int64_t depth = w.depth();
  int64_t k = 0;
  for (; live == lanes && each * (k + lanes) <= w.K; k += lanes) {  // in registers
    Vec<A> row[lanes];
    load_square(row, w, source, k);
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l)
      store(target + (k + l) * step, bit_cast<decltype(load(target))>(row[l]));
  }
  for (; k < depth; k += lanes) {
    Vec<A> row[lanes];
    load_square(row, w, source, k, live);
    for (int64_t l = 0; l < lanes && k + l < depth; ++l)
      store(target + (k + l) * step, bit_cast<decltype(load(target))>(row[l]));
  }
}

// Packs one vector of columns. The rows of `target` are those of half a panel, kHalf vectors apart.
template <class S>
LSTM_INLINE void pack_columns(Factor<S>* target, const Columns<S>& w, const S* source,
                              int64_t live) {
  using A = Acc<S>;
  constexpr int64_t step = kHalf * kLanes<A>;
  if (w.n_stride != 1) return pack_turned(target, w, source, live);
  const auto row = [&](int64_t k) LSTM_LAMBDA {
    return live > 0 && k < w.K ? load(source + k * w.k_stride, live) : Vec<A>{};
  };
  for (int64_t k = 0; k < w.depth(); ++k) {
    if constexpr (kPaired<S>)
      store(target + k * step, bit_cast<Pairs>(row(2 * k)) >> 16 | bit_cast<Pairs>(row(2 * k + 1)));
    else
      store(target + k * step, row(k));
  }
}

// Packs a last panel whose gates share vectors.
template <class S>
void pack_shared(Factor<S>* target, const Columns<S>& w, int64_t panel) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, each = kNumbers<Factor<S>>;
  const int64_t units = w.units(), unit = panel * lanes, gate_lanes = w.gate_lanes(panel);
  for (int64_t vector = 0; vector < kHalf; ++vector)
    for (int64_t k = 0; k < w.depth(); k += lanes) {
      Vec<A> row[lanes];
      for (int64_t l = 0; l < lanes; ++l) {
        const int64_t u = unit + l % gate_lanes, gate = (vector * lanes + l) / gate_lanes;
        const S* source = w.data + (gate * units + u) * w.n_stride + each * k;
        row[l] = gate < kGroup && u < units ? bit_cast<Vec<A>>(load_factors(source, w.K - each * k))
                                            : Vec<A>{};
      }
      transpose<A>(row);
      for (int64_t l = 0; l < lanes && k + l < w.depth(); ++l)
        store(target + ((k + l) * kHalf + vector) * lanes,
              bit_cast<decltype(load(target))>(row[l]));
    }
}

template <class S>
void pack_whole(Factor<S>* target, const Columns<S>& w, int64_t panel) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  const int64_t units = w.units();
  for (int64_t j = 0; j < kGroup; ++j) {
    const int64_t unit = w.gates ? panel * lanes : (panel * kGroup + j) * lanes;
    const int64_t live = units - unit < lanes ? units - unit : lanes;
    const int64_t column = w.gates ? j * units + unit : unit;
    pack_columns(target + (j / kHalf * w.depth() * kHalf + j % kHalf) * lanes, w,
                 w.data + column * w.n_stride, live);
  }
}

// Packs a panel in which each gate occupies `gate_lanes` lanes of a vector.
template <class S>
void pack_panel(Factor<S>* target, const Columns<S>& w, int64_t panel, int64_t gate_lanes) {
  (gate_lanes < kLanes<Acc<S>> ? pack_shared<S> : pack_whole<S>)(target, w, panel);
}

// Packs panels [begin, end) of W, each to its position in `pack`.
template <class S>
void pack_panels(Factor<S>* pack, const Columns<S>& w, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p)
    pack_panel(pack + p * w.panel_size(), w, p, w.gate_lanes(p));
}

// The packed weights of one call, one matrix after the other: the gates, then the projection (N = 0 without
// a projection). In forward, weight_ih comes first.
template <class S, int count>
struct Packed {
  Columns<S> w[count];

  // The number of factors before matrix n; n = count gives the total.
  int64_t size(int n = count) const {
    int64_t sum = 0;
    for (int k = 0; k < n; ++k) sum += w[k].pack_size();
    return sum;
  }
  void pack(Factor<S>* to, int64_t member, int64_t members) const {
    for (const Columns<S>& each : w) {
      const Range mine = share({0, 0, member, members}, each.panels());
      pack_panels(to, each, mine.begin, mine.end);
      to += each.pack_size();
    }
  }
};

}  // namespace stateful_lstm::cpu::LSTM_ISA
