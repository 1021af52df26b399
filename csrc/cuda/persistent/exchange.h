// Carries the rows of a product (split_k.h) from the blocks that compute them to the blocks that multiply them, round
// after round: within a block, within a cluster of blocks, or through memory. Three structs with one interface, so
// that the kernels (tensor_core.h) are written once.
//
//   begin()                       all threads, once: the buffers exist and are cleared
//   put(round, place, word)       one word of the rows of a round, for all blocks of the same rows
//   publish(round)                all threads: this block has put its whole part of the round
//   wait(round, first, last)      all threads of a warp: the words of blocks first..last - 1 have arrived
//   load(round, index)            4 words
//
// Double-buffered: once a block has published round r, it has finished reading round r - 1, so round r + 1 may
// overwrite that. A block may put a round after all its warps together have waited for all blocks of the round
// before, and a barrier of the block has followed.
#pragma once
#include "cuda/device.h"
#include "cuda/tile_gemm.h"

namespace stateful_lstm::cuda {

// The place of a block's tile: tiles of units side by side, then tiles of rows.
template <class Product>
struct TilePlace {
  int tiles, tile;  // of units
  int64_t row_tile, row0, unit0;
  LSTM_DEVICE explicit TilePlace(int64_t H)
      : tiles(int(tiles_of(H, Product::kUnits))),
        tile(block() % tiles),
        row_tile(block() / tiles),
        row0(row_tile * Product::kRows),
        unit0(int64_t(tile) * Product::kUnits) {}
};

// The common part of the two that keep the rows in shared memory.
struct RowsInShared {
  static constexpr bool kInShared = true;
  template <int AtOnce>
  static constexpr int kBatch = 2;  // loads in flight, each of AtOnce row tiles
  uint32_t* rows;                   // (2, words)
  int64_t words;
  LSTM_DEVICE uint32_t* at(int64_t round, int64_t place) const {
    return rows + round % 2 * words + place;
  }
  LSTM_DEVICE Words load(int64_t round, int64_t index) const {
    return *reinterpret_cast<const Words*>(at(round, index * 4));
  }
};

// persistent_block: one block has all units.
struct InBlock : RowsInShared {
  template <class Product>
  LSTM_DEVICE InBlock(uint32_t*, uint32_t* shared, int64_t count, const TilePlace<Product>&)
      : RowsInShared{shared, count} {}
  LSTM_DEVICE void begin() const { block_barrier(); }
  LSTM_DEVICE void put(int64_t round, int64_t place, uint32_t word) const {
    *at(round, place) = word;
  }
  LSTM_DEVICE void publish(int64_t) const {}
  LSTM_DEVICE void wait(int64_t, int64_t, int64_t) const { block_barrier(); }
};

// persistent_cluster: the blocks of a cluster have all units, and write into each other's shared memory (sm_90 and
// later).
struct InCluster : RowsInShared {
  template <class Product>
  LSTM_DEVICE InCluster(uint32_t*, uint32_t* shared, int64_t count, const TilePlace<Product>&)
      : RowsInShared{shared, count} {}
  LSTM_DEVICE void begin() const {
    cluster_arrive();
    cluster_wait();
  }
  LSTM_DEVICE void put(int64_t round, int64_t place, uint32_t word) const {
    for (int rank = 0; rank < cluster_blocks(); ++rank)
      *cluster_shared(at(round, place), rank) = word;
  }
  // Work that needs no rows fits between publish and wait.
  LSTM_DEVICE void publish(int64_t) const { cluster_arrive(); }
  LSTM_DEVICE void wait(int64_t, int64_t, int64_t) const { cluster_wait(); }
};

// persistent_grid: blocks anywhere on the device, all of them at once. The workspace holds one counter of published
// rounds for each block, then the rows. A warp waits only for the blocks whose words it reads.
struct ThroughMemory {
  static constexpr bool kInShared = false;
  // L2 has a long latency: as many loads in flight as there are registers for.
  template <int AtOnce>
  static constexpr int kBatch = AtOnce == 1 ? 8 : 4 / AtOnce;
  uint32_t *counters, *rows;
  int64_t tiles, tile, words;

  static LSTM_INLINE int64_t counter_words(int64_t blocks) { return (blocks + 31) / 32 * 32; }
  // Words that a launch needs, all zero at first.
  static LSTM_INLINE int64_t workspace_words(int64_t blocks, int64_t row_tiles, int64_t words) {
    return counter_words(blocks) + row_tiles * 2 * words;
  }
  template <class Product>
  LSTM_DEVICE ThroughMemory(uint32_t* workspace, uint32_t*, int64_t count,
                            const TilePlace<Product>& place)
      : counters(workspace + place.row_tile * place.tiles),
        rows(workspace + counter_words(blocks()) + place.row_tile * 2 * count),
        tiles(place.tiles),
        tile(place.tile),
        words(count) {
    static_assert(Product::kSlices > 1,
                  "the sum over slices has the barrier that must lie between wait and put");
  }
  LSTM_DEVICE void begin() const {}
  LSTM_DEVICE void put(int64_t round, int64_t place, uint32_t word) const {
    rows[round % 2 * words + place] = word;
  }
  LSTM_DEVICE void publish(int64_t round) const {
    block_barrier();
    if (thread() == 0) store_release(counters + tile, uint32_t(round + 1));
  }
  LSTM_DEVICE void wait(int64_t round, int64_t first, int64_t last) const {
    if (last > tiles) last = tiles;  // the last chunk may reach past all units
    for (int64_t i = first + thread() % 32; i < last; i += 32)
      while (load_acquire(counters + i) < uint32_t(round + 1)) emulator_yield();
    warp_barrier();
  }
  LSTM_DEVICE Words load(int64_t round, int64_t index) const {
    return load_past_l1(reinterpret_cast<const Words*>(rows + round % 2 * words) + index);
  }
};

}  // namespace stateful_lstm::cuda
