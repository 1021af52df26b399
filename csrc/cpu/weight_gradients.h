// The gradients that are parallel over time: of weights, biases and inputs, from the gradients of the gates.
// Shapes: params.h.
//
// With G (T*B, 4H) the gradients of the gates, X (T*B, I) the inputs and R (T*B, P) the h that each step
// started from:
//   grad_ih += G^T X    grad_hh += G^T R    grad_bias += column sums of G    grad_x = G weight_ih
// The first two are one product with [X, R], which is packed like weights, with k counting rows. G passes
// through in blocks of kSumLength rows, a few tiles of columns at a time, so that a block stays in L2. A
// library's product would need a transposed G, and widened numbers for float with bfloat16.
//
// Every sum runs over the rows in one order on any thread. There are no atomics, so every run gives the same
// bits.
#pragma once
#include "cpu/backward.h"

namespace stateful_lstm::cpu::LSTM_ISA {

constexpr int64_t kColumnsAtOnce = 8 * kTileRows;  // columns of G
// Divides every number of columns that are processed at once.
constexpr int kColumnsEach = kTileRows / 3;

// On tiles, threads share the rows of G^T in pairs of tiles, and process more columns of G at once.
template <class S>
constexpr int64_t kGradientRows = kTiles<S> ? 2 * kTileSide : kTileRows;
constexpr int64_t kTileColumnsAtOnce = 256, kTileRow = kTileLength / 2 + kTileSide;
template <class S>
constexpr int64_t kGradientScratch =
    kTiles<S> ? (kTileColumnsAtOnce + kTileSide) * kTileRow : kSumLength * kColumnsAtOnce;

// weight_ih as columns for the product that gives grad_x. Few rows do not repay packing.
template <class S>
Packed<S, 1> gradient_weight(const GradientParams<S>& a) {
  return {{{a.weight_ih, 4 * a.H, a.grad_x ? a.I : 0, a.I, 1, false}}};
}
template <class S>
Weights gradient_weight_is(const GradientParams<S>& a) {
  const bool whole_panels = a.I % (kGroup * kLanes<Acc<S>>) == 0;
  return a.T * a.B <= heuristics::kGradientInPlaceRows && whole_panels ? Weights::in_place
                                                                       : Weights::packed;
}

// Row k of X or R (T * B rows), or null for a row of zeros.
template <class S>
LSTM_INLINE const S* input_row(const GradientParams<S>& a, int64_t k) {
  return a.x + k * a.I;
}
template <class S, template <class> class Params>
LSTM_INLINE const S* hidden_row(const Params<S>& a, int64_t k) {
  const int64_t t = k / a.B, b = k % a.B;
  if (!is_live(a, t, b) || is_reset(a, t, b)) return nullptr;
  const int64_t first = !a.reverse ? 0 : (a.lengths ? a.lengths[b] : a.T) - 1;
  if (t == first) return a.h0 + b * a.P;
  return a.y + ((a.reverse ? t + 1 : t - 1) * a.B + b) * a.P;
}

// The panels of X, then the panels of R. Each covers all rows, in the layout of pack.h.
template <class S>
struct RowPanels {
  const GradientParams<S>& a;

  static int64_t of(int64_t columns) {
    constexpr int64_t width = kGroup * kLanes<Acc<S>>;
    return (columns + width - 1) / width;
  }
  int64_t of_x() const { return a.grad_ih || a.narrow_ih ? of(a.I) : 0; }
  int64_t count() const { return of_x() + (a.grad_hh || a.narrow_hh ? of(a.P) : 0); }
  int64_t depth() const { return depth_of<S>(a.T * a.B); }
  int64_t size() const { return depth() * kGroup * kLanes<Acc<S>>; }  // of a panel, in factors
};

// Packs one panel of N columns from the rows row(k), null for zeros. `mask` (B, N) multiplies them if not
// null.
template <class S, class Row>
LSTM_INLINE void pack_rows(const GradientParams<S>& a, Factor<S>* panel, int64_t column, int64_t N,
                           const S* mask, const Row& row) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, step = kHalf * lanes, each = kNumbers<Factor<S>>;
  const int64_t rows = a.T * a.B, depth = depth_of<S>(rows);
  for (int64_t k = 0; k < depth; ++k) {
    const S *from[each], *masks[each] = {};
    for (int64_t e = 0; e < each; ++e) {
      from[e] = each * k + e < rows ? row(each * k + e) : nullptr;
      if (mask) masks[e] = mask + (each * k + e) % a.B * N;
    }
    const auto load_row = [&](int64_t e, int64_t first) LSTM_LAMBDA {
      if (from[e] == nullptr || first >= N) return Vec<A>{};
      const Vec<A> v = load(from[e] + first, N - first);
      return masks[e] ? round_to<S>(v * load(masks[e] + first, N - first)) : v;
    };
    for (int64_t j = 0; j < kGroup; ++j) {
      const int64_t first = column + j * lanes;
      Factor<S>* to = panel + j / kHalf * depth * step + k * step + j % kHalf * lanes;
      if constexpr (kPaired<S>)
        store(to, bit_cast<Pairs>(load_row(0, first)) >> 16 | bit_cast<Pairs>(load_row(1, first)));
      else
        store(to, load_row(0, first));
    }
  }
}

// Packs panels [begin, end) of [X, R].
template <class S>
void gradient_pack(const GradientParams<S>& a, Acc<S>* pack, int64_t begin, int64_t end) {
  constexpr int64_t width = kGroup * kLanes<Acc<S>>;
  const RowPanels<S> panels = {a};
  for (int64_t p = begin; p < end; ++p) {
    auto* to = reinterpret_cast<Factor<S>*>(pack) + p * panels.size();
    if (p < panels.of_x())
      pack_rows(a, to, p * width, a.I, static_cast<const S*>(nullptr),
                [&](int64_t k) LSTM_LAMBDA { return input_row(a, k); });
    else
      pack_rows(a, to, (p - panels.of_x()) * width, a.P, a.recurrent_mask,
                [&](int64_t k) LSTM_LAMBDA { return hidden_row(a, k); });
  }
}

// Columns [n, n + count) and rows [begin, end) of G as factors (rows, count). Adds the column sums to `bias`.
template <class S>
LSTM_INLINE void pack_gates(const GradientParams<S>& a, Factor<S>* to, int64_t n, int64_t count,
                            int64_t begin, int64_t end, Acc<S>* bias) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>, each = kNumbers<Factor<S>>;
  const auto* gates = static_cast<const Input<S>*>(a.grad_gates);
  for (int64_t first = 0; first < count; first += lanes) {
    const int64_t live = count - first;
    Vec<A> sum = {};
    const auto column = [&](int64_t k) LSTM_LAMBDA {
      return k < end ? load(gates + k * a.gates_stride + n + first, live) : Vec<A>{};
    };
    for (int64_t k = begin; k < end; k += each) {
      Factor<S>* target = to + (k - begin) / each * count + first;
      if constexpr (kPaired<S>) {
        const Vec<A> even = column(k), odd = column(k + 1);
        sum += even + odd;
        store(target, bit_cast<Pairs>(even) >> 16 | bit_cast<Pairs>(odd), live);
      } else {
        const Vec<A> v = column(k);
        sum += v;
        store(target, v, live);
      }
    }
    if (bias) store(bias + first, load(static_cast<const A*>(bias) + first, live) + sum, live);
  }
}

// The same as rows of tiles A, kTileRow pairs apart: (count, pairs of rows), with zeros up to a whole tile.
template <class S>
LSTM_INLINE void pack_gate_tiles(const GradientParams<S>& a, Pair* to, int64_t n, int64_t count,
                                 int64_t begin, int64_t end, float* bias) {
  const auto* gates = static_cast<const bfloat16*>(a.grad_gates);
  for (int64_t first = 0; first < count; first += kTileSide) {
    const int64_t live = count - first < kTileSide ? count - first : kTileSide;
    Vec<float> sum = {};
    const auto row = [&](int64_t k) LSTM_LAMBDA {
      return k < end ? load(gates + k * a.gates_stride + n + first, live) : Vec<float>{};
    };
    for (int64_t k = begin; k < end; k += 2 * kTileSide) {
      Vec<float> pairs[kLanes<float>];  // kTileSide, if there are tiles
      for (int64_t l = 0; l < kTileSide; ++l) {
        const Vec<float> even = row(k + 2 * l), odd = row(k + 2 * l + 1);
        sum += even + odd;
        pairs[l] = bit_cast<Vec<float>>(bit_cast<Pairs>(even) >> 16 | bit_cast<Pairs>(odd));
      }
      transpose<float>(pairs);
      for (int64_t l = 0; l < live; ++l)
        store(to + (first + l) * kTileRow + (k - begin) / 2, bit_cast<Pairs>(pairs[l]));
    }
    if (bias) store(bias + first, load(static_cast<const float*>(bias) + first, live) + sum, live);
  }
}

// gradient_weights for processors that multiply tiles.
template <class S>
void gradient_tiles(const GradientParams<S>& a, const Pair* pack, Pair* gates, int64_t begin,
                    int64_t end) {
  const TilesInUse<S> tiles;
  constexpr int64_t width = kGroup * kTileSide;
  const RowPanels<S> panels = {a};
  const int64_t rows = a.T * a.B;
  for (int64_t n = begin; n < end; n += kTileColumnsAtOnce) {
    const int64_t count = end - n < kTileColumnsAtOnce ? end - n : kTileColumnsAtOnce;
    float* bias = a.grad_bias ? a.grad_bias + n : nullptr;
    for (int64_t first = 0; first < rows; first += kTileLength) {
      const int64_t last = rows - first < kTileLength ? rows : first + kTileLength;
      const bool fresh = first == 0 && !a.adds;
      if (bias && fresh) zero(bias, count);
      pack_gate_tiles(a, gates, n, count, first, last, bias);
      for (int64_t p = 0; p < panels.count(); ++p) {
        const bool of_x = p < panels.of_x();
        const int64_t K = of_x ? a.I : a.P, column = (of_x ? p : p - panels.of_x()) * width;
        const PackedPanel<Pair> panel = packed_panel(pack, panels.depth(), p);
        const auto add = [&](auto* grads) LSTM_LAMBDA {
          using Out = std::remove_pointer_t<decltype(grads)>;
          add_panel_tiles(Sums<Out>{grads + n * K + column, K, K - column, 0, fresh}, gates,
                          kTileRow, 0, count, depth_of<S>(last - first),
                          panel.data + first / 2 * panel.row, panel.half, Always{});
        };
        if (S* narrow = of_x ? a.narrow_ih : a.narrow_hh)
          add(narrow);
        else
          add(of_x ? a.grad_ih : a.grad_hh);
      }
    }
  }
}

// Tiles [begin, end) of the rows of the weight gradients, and the same part of the bias gradient. `scratch`
// has kGradientScratch elements.
template <class S>
void gradient_weights(const GradientParams<S>& a, const Acc<S>* packed, Acc<S>* scratch,
                      int64_t begin, int64_t end) {
  using A = Acc<S>;
  using F = Factor<S>;
  constexpr int64_t lanes = kLanes<A>, width = kGroup * lanes, each = kNumbers<F>;
  const RowPanels<S> panels = {a};
  const auto* pack = reinterpret_cast<const F*>(packed);
  auto* gates = reinterpret_cast<F*>(scratch);
  const int64_t rows = a.T * a.B;
  begin *= kGradientRows<S>;
  end = end * kGradientRows<S> < 4 * a.H ? end * kGradientRows<S> : 4 * a.H;
  if constexpr (kTiles<S>)
    if (rows >= kTileSide) return gradient_tiles(a, pack, gates, begin, end);
  const bool rows_of_gradients =
      panels.count() * panels.size() * int64_t(sizeof(F)) <= heuristics::kNearRowsBytes;
  for (int64_t n = begin; n < end; n += kColumnsAtOnce) {
    const int64_t count = end - n < kColumnsAtOnce ? end - n : kColumnsAtOnce;
    A* bias = a.grad_bias ? a.grad_bias + n : nullptr;
    for (int64_t first = 0; first < rows; first += kSumLength) {
      const int64_t last = rows - first < kSumLength ? rows : first + kSumLength;
      const bool fresh = first == 0 && !a.adds;
      if (bias && fresh) zero(bias, count);
      pack_gates(a, gates, n, count, first, last, bias);
      const int64_t length = factors<S>(last - first);
      const auto add = [&](int64_t p, int64_t half, auto tile, int64_t r) LSTM_LAMBDA {
        constexpr int R = decltype(tile)::rows;
        const bool of_x = p < panels.of_x();
        const int64_t K = of_x ? a.I : a.P,
                      at = (of_x ? p : p - panels.of_x()) * width + half * width / 2;
        if (at >= K) return;
        A* grads = of_x ? a.grad_ih : a.grad_hh;
        S* narrow = of_x ? a.narrow_ih : a.narrow_hh;
        PackedPanel<F> part = packed_panel(pack, panels.depth(), p);
        part.data += first / each * part.row + half * part.half;
        part.fetch(r / kTileRows, part.half, kSumLength / each);
        const ColumnInputs<F> in = {gates + r, count};
        const int64_t first_sum = (n + r) * K + at;
        if (narrow)
          add_tile<R, kHalf>(Sums<S>{narrow + first_sum, K, K - at, 0, fresh}, in, length, part);
        else
          add_tile<R, kHalf>(Sums<A>{grads + first_sum, K, K - at, 0, fresh}, in, length, part);
      };
      if (rows_of_gradients)  // writes each row from start to end
        in_tiles<kTileRows, kColumnsEach>(0, count, [&](auto tile, int64_t r) LSTM_LAMBDA {
          for (int64_t k = 0; k < 2 * panels.count(); ++k) add(k / 2, k % 2, tile, r);
        });
      else
        for (int64_t k = 0; k < 2 * panels.count(); ++k)
          in_tiles<kTileRows, kColumnsEach>(
              0, count, [&](auto tile, int64_t r) LSTM_LAMBDA { add(k / 2, k % 2, tile, r); });
    }
  }
}

// grad_x = G weight_ih for rows [begin, end). If `packed` is null, weight_ih is read in place. If S is
// narrower than Acc<S>, `scratch` holds the sums of these rows.
template <class S>
void gradient_inputs(const GradientParams<S>& a, const Acc<S>* packed, Acc<S>* scratch,
                     int64_t begin, int64_t end) {
  using A = Acc<S>;
  using F = Factor<S>;
  constexpr int64_t each = kNumbers<F>;
  const TilesInUse<S> tiles;
  const Columns<S> w = gradient_weight(a).w[0];
  const auto* gates = static_cast<const F*>(a.grad_gates) + begin * a.gates_stride / each;
  const auto product = [&](A* out) LSTM_LAMBDA {
    plain_product(out, a.I, gates, a.gates_stride / each, 0, end - begin, 4 * a.H, a.I,
                  Range{0, w.panels()}, reinterpret_cast<const F*>(packed), a.weight_ih, Always{});
  };
  if constexpr (sizeof(S) == sizeof(A)) {
    product(a.grad_x + begin * a.I);
  } else {
    product(scratch);
    store_rows(a.grad_x + begin * a.I, static_cast<const A*>(scratch), (end - begin) * a.I);
  }
}

}  // namespace stateful_lstm::cpu::LSTM_ISA
