// A whole sequence in one launch on tensor cores (sm_80 and later): each persistent block takes some rows and some
// units, and keeps the weights of these units in shared memory and their cells in registers. No projection.
//
// Grid: tiles of units, then tiles of rows. An Exchange (exchange.h) carries the rows of h (backward: the gradients of
// the gates) from step to step, so the same kernel is persistent_block, persistent_cluster and persistent_grid. The
// warps of a block split the depth of a step's sums (split_k.h). A step reads its other operands before it waits for h,
// so that the latency of memory is hidden.
//
// Bound by: one exchange a step, and reading weights from shared memory.
#pragma once
#include "cuda/launch.h"
#include "cuda/lstm_cell.h"
#include "cuda/persistent/exchange.h"
#include "cuda/persistent/split_k.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

// The pair of units that a thread owns in the call, and whether both exist.
template <class Product>
struct OwnPair {
  bool there, two;
  int row;          // within the block
  int64_t b, unit;  // in the call
  LSTM_DEVICE OwnPair(int i, const TilePlace<Product>& place, int64_t B, int64_t H) {
    const PairPlace<Product> pair(i);
    row = pair.row();
    b = place.row0 + row;
    unit = place.unit0 + pair.unit();
    there = pair.there && b < B && unit < H;
    two = there && unit + 1 < H;
  }
};

// Two numbers as factors, into the rows of a round.
template <class S, class Product, class Exchange>
LSTM_DEVICE void put_pair(const Exchange& exchange, int64_t round, const OwnPair<Product>& pair,
                          int part, int parts, float first, float second) {
  S numbers[2];
  narrow(&numbers[0], first);
  narrow(&numbers[1], second);
  const int64_t place = Product::place_of(pair.row, pair.unit, part, parts);
  if constexpr (Product::kNumbers == 2) {
    exchange.put(round, place, pack(numbers));
  } else {
    exchange.put(round, place, bits_of(as_factor(numbers[0])));
    exchange.put(round, place + 1, bits_of(as_factor(numbers[1])));
  }
}

// Waits for this warp's slice of the rows of a round and multiplies it with the weights.
template <class Product, int N, class Exchange>
LSTM_DEVICE void multiply_round(const SplitKShared<Product, N>& at, const Exchange& exchange,
                                int64_t round, uint32_t keep,
                                float (&total)[Product::kPairs][N][2]) {
  const int64_t units = Product::kDepth, begin = at.first(), end = at.last();
  exchange.wait(round, begin / at.parts * units / Product::kUnits,
                begin < end ? ((end - 1) / at.parts * units + units - 1) / Product::kUnits + 1 : 0);
  using Shared = SplitKShared<Product, N>;
#pragma unroll
  for (int m = 0; m < Product::kRowTiles; m += Shared::kAtOnce) {
    float acc[Shared::kAtOnce][Shared::kColumns][4] = {};
    at.template multiply<Exchange::template kBatch<Shared::kAtOnce>>(
        acc, m, keep, [&](int64_t index) { return exchange.load(round, index); });
    at.add_up(acc, m, total);
  }
}

template <class S, class Product, class Exchange>
LSTM_KERNEL_OF(Product::kThreads)
forward_tensor_core(ForwardArgs<S> p, uint32_t* memory) {
  constexpr int kPairs = Product::kPairs;
  // Whether there are registers to hold a step's other operands while it waits for h.
  constexpr bool kEarly = Product::kRowTiles * Product::kTiles <= 4;
  const int64_t B = p.B, H = p.H;
  const TilePlace<Product> place(H);
  const SplitKShared<Product, 4> at(H, 1);
  const Exchange exchange(memory, at.rows, at.row_words, place);
  at.fill(place.unit0, [&](int gate, int64_t unit, int, int64_t k) {
    return p.weight_hh[(gate * H + place.unit0 + unit) * H + k];
  });
  for (int i = thread(); i < 4 * Product::kUnits; i += Product::kThreads) {
    const int64_t unit = place.unit0 + i % Product::kUnits, column = i / Product::kUnits * H + unit;
    const bool there = unit < H && p.bias_ih != nullptr;
    at.bias[i] = there ? widen(p.bias_ih[column]) + widen(p.bias_hh[column]) : 0.f;
  }
  if constexpr (Exchange::kInShared) at.clear_rows();
  exchange.begin();

  float c[kPairs][2], h[kPairs][2] = {}, mask[kEarly ? kPairs : 1][2] = {};
  int64_t length[kEarly ? kPairs : 1];
  const auto mask_of = [&](const OwnPair<Product>& own, int j) {
    const bool there = p.recurrent_mask != nullptr && (j == 0 ? own.there : own.two);
    return there ? widen(p.recurrent_mask[own.b * H + own.unit + j]) : 1.f;
  };
  const auto put = [&](int64_t round, int i, const OwnPair<Product>& own) {
    if constexpr (kEarly)
      put_pair<S>(exchange, round, own, 0, 1, h[i][0] * mask[i][0], h[i][1] * mask[i][1]);
    else
      put_pair<S>(exchange, round, own, 0, 1, h[i][0] * mask_of(own, 0), h[i][1] * mask_of(own, 1));
  };
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const OwnPair<Product> own(i, place, B, H);
    if constexpr (kEarly) length[i] = own.there && p.lengths != nullptr ? p.lengths[own.b] : p.T;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const bool there = j == 0 ? own.there : own.two;
      const int64_t cell = own.b * H + own.unit + j;
      c[i][j] = there ? p.c0[cell] : 0.f;
      h[i][j] = there ? widen(p.h0[cell]) : 0.f;
      if constexpr (kEarly) mask[i][j] = mask_of(own, j);
    }
    if (own.there) put(0, i, own);
  }
  exchange.publish(0);

  for (int64_t step = 0; step < p.T; ++step) {
    const int64_t t = time_of(p, step);
    float x[kPairs][4][2];
    bool reset[kPairs];
    const auto bring = [&](int i, const OwnPair<Product>& own) {
      reset[i] = own.there && is_reset(p, t, own.b);
      const float* from = p.gates_x + (t * B + own.b) * 4 * H + own.unit;
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) {
        x[i][gate][0] = own.there ? from[gate * H] : 0.f;
        x[i][gate][1] = own.two ? from[gate * H + 1] : 0.f;
      }
    };
    if constexpr (kEarly) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) bring(i, OwnPair<Product>(i, place, B, H));
    }
    uint32_t keep = ~0u;
#pragma unroll
    for (int eight = 0; eight < 2 * Product::kRowTiles; ++eight) {
      const int64_t b = place.row0 + 8 * eight + Product::lane() / 4;
      if (b < B && is_reset(p, t, b)) keep &= ~(1u << eight);
    }
    float sums[kPairs][4][2] = {};
    multiply_round(at, exchange, step, keep, sums);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const OwnPair<Product> own(i, place, B, H);
      if (!own.there) continue;
      if constexpr (!kEarly) bring(i, own);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (j == 1 && !own.two) continue;
        const int64_t unit = own.unit + j, out = (t * B + own.b) * H + unit;
        bool live;
        if constexpr (kEarly)
          live = t < length[i];
        else
          live = is_live(p, t, own.b);
        if (live) {
          const float* bias = at.bias + unit - place.unit0;
          float before[4];
#pragma unroll
          for (int gate = 0; gate < 4; ++gate)
            before[gate] = x[i][gate][j] + bias[gate * Product::kUnits] + sums[i][gate][j];
          h[i][j] = cell_of_gates(p, t, own.b, unit, {before[0], before[1], before[2], before[3]},
                                  reset[i] ? 0.f : c[i][j], &c[i][j]);
          narrow(p.y + out, h[i][j]);
        } else {
          cell_skipped(p, t, own.b, unit);
          p.y[out] = zero<S>();
        }
        if (step + 1 == p.T) {
          narrow(p.h_n + own.b * H + unit, h[i][j]);
          p.c_n[own.b * H + unit] = c[i][j];
        }
      }
      if (step + 1 < p.T) put(step + 1, i, own);
    }
    if (step + 1 < p.T) exchange.publish(step + 1);
  }
}

template <class S, class Product, class Exchange>
LSTM_KERNEL_OF(Product::kThreads)
backward_tensor_core(BackwardArgs<S> p, uint32_t* memory) {
  constexpr int kPairs = Product::kPairs;
  constexpr bool kEarly = kPairs <= 2;  // as above
  const int64_t B = p.B, H = p.H;
  const TilePlace<Product> place(H);
  const SplitKShared<Product, 1> at(H, 4);
  const Exchange exchange(memory, at.rows, at.row_words, place);
  at.fill(place.unit0, [&](int, int64_t unit, int gate, int64_t k) {
    return p.weight_hh[(gate * H + k) * H + place.unit0 + unit];
  });
  if constexpr (Exchange::kInShared) at.clear_rows();
  exchange.begin();

  float dh[kPairs][2], dc[kPairs][2], mask[kPairs][2];
  bool live[kPairs], reset[kPairs];  // of the step after
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const OwnPair<Product> own(i, place, B, H);
    live[i] = reset[i] = false;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const bool there = j == 0 ? own.there : own.two;
      const int64_t cell = own.b * H + own.unit + j;
      dh[i][j] = there && p.grad_h_n != nullptr ? widen(p.grad_h_n[cell]) : 0.f;
      dc[i][j] = there && p.grad_c_n != nullptr ? p.grad_c_n[cell] : 0.f;
      mask[i][j] = there && p.recurrent_mask != nullptr ? widen(p.recurrent_mask[cell]) : 1.f;
    }
  }

  for (int64_t step = p.T - 1; step >= -1; --step) {
    const int64_t t = time_of(p, step), round = p.T - 1 - step;
    Saved<float> saved[kPairs][2] = {};
    const auto bring = [&](int i, const OwnPair<Product>& own) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (step < 0 || !(j == 0 ? own.there : own.two)) continue;
        saved[i][j] = saved_of(p, t, own.b, own.unit + j);
        if (saved[i][j].live && p.grad_y != nullptr)
          saved[i][j].grad_y = widen(p.grad_y[(t * B + own.b) * H + own.unit + j]);
      }
    };
    if constexpr (kEarly) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) bring(i, OwnPair<Product>(i, place, B, H));
    }
    float sums[kPairs][1][2] = {};
    if (round > 0) multiply_round(at, exchange, round - 1, ~0u, sums);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const OwnPair<Product> own(i, place, B, H);
      if (!own.there) continue;
      if constexpr (!kEarly) bring(i, own);
      Gates<float> made[2] = {};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (j == 1 && !own.two) continue;
        const int64_t cell = own.b * H + own.unit + j;
        if (live[i]) dh[i][j] = reset[i] ? 0.f : sums[i][0][j] * mask[i][j];
        if (step < 0) {
          p.grad_h0[cell] = dh[i][j];
          p.grad_c0[cell] = dc[i][j];
          continue;
        }
        if (saved[i][j].live) dh[i][j] += saved[i][j].grad_y;
        made[j] = cell_gradient(p, t, own.b, own.unit + j, saved[i][j], dh[i][j], &dc[i][j]);
      }
      if (step < 0) continue;
      live[i] = saved[i][0].live;
      reset[i] = saved[i][0].reset;
      put_pair<S>(exchange, round, own, 0, 4, made[0].i, made[1].i);
      put_pair<S>(exchange, round, own, 1, 4, made[0].f, made[1].f);
      put_pair<S>(exchange, round, own, 2, 4, made[0].g, made[1].g);
      put_pair<S>(exchange, round, own, 3, 4, made[0].o, made[1].o);
    }
    if (step >= 0) exchange.publish(round);
  }
}

// ---- launch --------------------------------------------------------------------------------------

// For the kernel whose product has N columns for each unit and `parts` parts of K.
template <class Product, class Exchange, int N>
Grid tensor_core_grid(int64_t B, int64_t H, int parts) {
  const int64_t tiles = tiles_of(H, Product::kUnits), row_tiles = tiles_of(B, Product::kRows);
  Grid grid = {tiles * row_tiles, Product::kThreads,
               SplitKShared<Product, N>::bytes(H, parts, Exchange::kInShared)};
  if constexpr (!Exchange::kInShared) {
    grid.cooperative = true;
    grid.workspace =
        Exchange::workspace_words(grid.blocks, row_tiles, Product::row_words(H, parts));
  } else {
    grid.cluster = int(tiles);
  }
  return grid;
}
template <class S, class Variant>
Grid tensor_core_grid_of(const CallSpec& c) {
  using Exchange = typename Variant::Exchange;
  return c.backward ? tensor_core_grid<typename Variant::BackwardTile, Exchange, 1>(c.B, c.H, 4)
                    : tensor_core_grid<typename Variant::ForwardTile, Exchange, 4>(c.B, c.H, 1);
}

template <class S, class Variant>
void launch_forward_tensor_core(const ForwardArgs<S>& p, const Grid& grid, uint32_t* workspace,
                                const Stream& stream) {
  launch(forward_tensor_core<S, typename Variant::ForwardTile, typename Variant::Exchange>, grid,
         stream, p, workspace);
}
template <class S, class Variant>
void launch_backward_tensor_core(const BackwardArgs<S>& p, const Grid& grid, uint32_t* workspace,
                                 const Stream& stream) {
  launch(backward_tensor_core<S, typename Variant::BackwardTile, typename Variant::Exchange>, grid,
         stream, p, workspace);
}

}  // namespace stateful_lstm::cuda
