// How the rows of a product (slices.h) go from the blocks that make them to those that multiply them, round after
// round: within a block, within a cluster of blocks, or through memory. Three structs with one interface, so
// that what is done with the rows is written once.
//
//   begin()                       all threads, once: the buffers are there and cleared
//   put(round, place, word)       a word of the rows of a round, seen by all blocks of the same rows
//   publish(round)                all threads: what this block puts into the round is complete
//   wait(round, first, last)      all threads of a warp: the round's words of blocks first..last - 1 are there
//   load(round, index)            4 words
//
// A round's words are put where those of two rounds before were: who has seen that a block has published a round
// knows that it has read the round before. A block may put a round when it has waited for the one before, all its
// warps together having waited for all blocks, and met since.
#pragma once
#include "cuda/persistent/split_k.h"

namespace stateful_lstm::cuda {

// Where a block's tile is: tiles of units side by side, then tiles of rows.
template <class Product>
struct TilePlace {
  int tiles, tile;  // of units
  int64_t row_tile, row0, unit0;
  LSTM_DEVICE explicit TilePlace(int64_t H)
      : tiles(int((H + Product::kUnits - 1) / Product::kUnits)),
        tile(block() % tiles),
        row_tile(block() / tiles),
        row0(row_tile * Product::kRows),
        unit0(int64_t(tile) * Product::kUnits) {}
};

// What both kinds that keep the rows in shared memory have.
struct RowsInShared {
  static constexpr bool kInShared = true;
  template <int AtOnce>
  static constexpr int kBatch = 2;  // loads under way at once, each of so many row tiles
  uint32_t* rows;                   // (2, words)
  int64_t words;
  LSTM_DEVICE uint32_t* at(int64_t round, int64_t place) const {
    return rows + round % 2 * words + place;
  }
  LSTM_DEVICE Words load(int64_t round, int64_t index) const {
    return *reinterpret_cast<const Words*>(at(round, index * 4));
  }
};

// One block has all units.
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

// A cluster's blocks have all units, and write into each other's shared memory (sm_90 and later).
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
  // Between the two is time for what does not need the rows.
  LSTM_DEVICE void publish(int64_t) const { cluster_arrive(); }
  LSTM_DEVICE void wait(int64_t, int64_t, int64_t) const { cluster_wait(); }
};

// Blocks anywhere on the device, all there at once: the rows in memory, and a count of rounds for each block. A
// warp waits only for those whose words it reads.
struct ThroughMemory {
  static constexpr bool kInShared = false;
  // L2 takes its time: as many loads at once as there are registers for.
  template <int AtOnce>
  static constexpr int kBatch = AtOnce == 1 ? 8 : 4 / AtOnce;
  uint32_t *counts, *rows;
  int64_t tiles, tile, words;

  // Words that a launch needs, all zero at first: the counts of all blocks, then the rows of all row tiles.
  static LSTM_INLINE int64_t count_words(int64_t blocks) { return (blocks + 31) / 32 * 32; }
  static LSTM_INLINE int64_t memory_words(int64_t blocks, int64_t row_tiles, int64_t words) {
    return count_words(blocks) + row_tiles * 2 * words;
  }
  template <class Product>
  LSTM_DEVICE ThroughMemory(uint32_t* memory, uint32_t*, int64_t count,
                            const TilePlace<Product>& place)
      : counts(memory + place.row_tile * place.tiles),
        rows(memory + count_words(blocks()) + place.row_tile * 2 * count),
        tiles(place.tiles),
        tile(place.tile),
        words(count) {
    static_assert(Product::kSlices > 1, "warps meet between wait and put: where sums are added up");
  }
  LSTM_DEVICE void begin() const {}
  LSTM_DEVICE void put(int64_t round, int64_t place, uint32_t word) const {
    rows[round % 2 * words + place] = word;
  }
  LSTM_DEVICE void publish(int64_t round) const {
    block_barrier();
    if (thread() == 0) store_release(counts + tile, uint32_t(round + 1));
  }
  LSTM_DEVICE void wait(int64_t round, int64_t first, int64_t last) const {
    if (last > tiles) last = tiles;  // the last chunk may reach past all units
    for (int64_t i = first + thread() % 32; i < last; i += 32)
      while (load_acquire(counts + i) < uint32_t(round + 1)) emulator_yield();
    warp_barrier();
  }
  LSTM_DEVICE Words load(int64_t round, int64_t index) const {
    return load_past_l1(reinterpret_cast<const Words*>(rows + round % 2 * words) + index);
  }
};

}  // namespace stateful_lstm::cuda
