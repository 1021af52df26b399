// Uninitialized memory for the duration of a call, aligned so that no vector straddles two cache lines.
//
// The system maps large blocks page by page, which takes longer than packing weights into them. So the
// calling thread keeps a sequence's scratch for its next call. Scratch lies in huge pages where the system
// has them: with small, scattered pages some processes took twice as long to pack.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace stateful_lstm {

class Block {
 public:
  size_t size = 0;

  Block() = default;
  Block(Block&& other) noexcept
      : size(std::exchange(other.size, 0)),
        memory_(std::move(other.memory_)),
        begin_(std::exchange(other.begin_, nullptr)) {}
  Block& operator=(Block&& other) noexcept {
    size = std::exchange(other.size, 0);
    memory_ = std::move(other.memory_);
    begin_ = std::exchange(other.begin_, nullptr);
    return *this;
  }
  explicit Block(size_t bytes) : size(bytes) {
    if (bytes == 0) return;
    constexpr size_t kLine = 64, kPage = size_t{2} << 20;
    const auto aligned = [](size_t n, size_t unit) { return (n + unit - 1) / unit * unit; };
    const bool large = bytes >= kPage / 2;
    if (large || kExact) {
      const size_t unit = large ? kPage : kLine, all = aligned(bytes, unit);
      memory_.reset(std::aligned_alloc(unit, all));
      begin_ = memory_.get();
#if defined(__linux__)
      if (large && begin_) madvise(begin_, all, MADV_HUGEPAGE);  // a hint: a refusal does no harm
#endif
    } else {  // faster than aligned_alloc, which small steps notice
      memory_.reset(std::malloc(bytes + kLine));
      begin_ = reinterpret_cast<void*>(aligned(reinterpret_cast<uintptr_t>(memory_.get()), kLine));
    }
    if (!memory_) throw std::bad_alloc();
  }
  void* get() const { return begin_; }  // null for zero bytes

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kExact = true;  // an extra line would hide accesses past the end
#else
  static constexpr bool kExact = false;
#endif
  std::unique_ptr<void, Free> memory_;
  void* begin_ = nullptr;
};

// Holds large blocks between calls. A call hands such a block on, or needs it for itself. The block is freed
// soon after, and the next call or iteration wants the same size again, from any thread and for many layers.
class Pool {
 public:
  static constexpr size_t kLeast = size_t{1} << 20;  // bytes; malloc caches smaller blocks itself

  static Pool& shared() {
    static Pool* pool = new Pool;  // never destroyed: tensors may outlive it
    return *pool;
  }
  // Returns a block of at least this many bytes: the smallest waiting block that fits and is at most a
  // quarter larger. Among equals it takes the newest, which is most likely in a cache. If none fits, it
  // allocates a block.
  Block take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      size_t best = waiting_.size();
      for (size_t k = 0; k < waiting_.size(); ++k)
        if (waiting_[k].size >= bytes && waiting_[k].size <= bytes + bytes / 4 &&
            (best == waiting_.size() || waiting_[k].size <= waiting_[best].size))
          best = k;
      if (best < waiting_.size()) {
        Block block = std::move(waiting_[best]);
        waiting_.erase(waiting_.begin() + best);
        bytes_ -= block.size;
        return block;
      }
    }
    return Block(bytes);
  }
  // Frees the oldest blocks once the pool is full.
  void give(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_ += block.size;
    waiting_.push_back(std::move(block));
    while (bytes_ > kMost) {
      bytes_ -= waiting_.front().size;
      waiting_.erase(waiting_.begin());
    }
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kMost = 0;
#else
  static constexpr size_t kMost = size_t{128} << 20;
#endif
  std::mutex mutex_;
  std::vector<Block> waiting_;  // the newest blocks are last
  size_t bytes_ = 0;
};

// Where a thread keeps a block between calls: one place per simultaneous use. `pool`: large blocks go to the
// shared pool.
enum class Place { no, pool, pack, work, member_scratch, gates, sums, count };

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size, Place place = Place::no) : place_(place) {
    const size_t bytes = size * sizeof(T);
    if (place == Place::pool && bytes >= Pool::kLeast)
      block_ = Pool::shared().take(bytes);
    else if (stays() && bytes > 0 && kept().size >= bytes)
      block_ = std::exchange(kept(), Block());
    else
      block_ = Block(bytes);
  }
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&& other) noexcept {  // the old memory goes to `other`, which releases it
    std::swap(place_, other.place_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() {
    if (place_ == Place::pool && block_.size >= Pool::kLeast)
      Pool::shared().give(std::move(block_));
    else if (stays() && block_.size > kept().size && block_.size <= kMost)
      kept() = std::move(block_);
  }
  T* get() const { return static_cast<T*>(block_.get()); }  // null if empty

 private:
#if defined(__SANITIZE_ADDRESS__)
  // A block larger than requested would hide accesses past its end.
  static constexpr size_t kMost = 0;
#else
  static constexpr size_t kMost = size_t{64} << 20;
#endif
  bool stays() const { return place_ != Place::no && place_ != Place::pool; }
  Block& kept() const {
    thread_local Block blocks[int(Place::count)];
    return blocks[int(place_)];
  }
  Place place_;
  Block block_;
};

}  // namespace stateful_lstm
