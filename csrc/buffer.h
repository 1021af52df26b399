// Memory for the length of a call, not filled, where no vector straddles two cache lines.
//
// The system hands large memory out page by page, which takes longer than packing weights into it. So
// what a sequence needs for itself stays with the calling thread for its next call. It lies in large
// pages where they are to be had: in small ones, scattered as they come, some processes took twice as
// long to pack as others.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace stateful_lstm {

struct Block {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory;
  size_t size = 0;

  Block() = default;
  Block(Block&& other) noexcept
      : memory(std::move(other.memory)), size(std::exchange(other.size, 0)) {}
  Block& operator=(Block&& other) noexcept {
    memory = std::move(other.memory);
    size = std::exchange(other.size, 0);
    return *this;
  }
  explicit Block(size_t bytes) : size(bytes) {
    if (bytes == 0) return;
    constexpr size_t kLine = 64, kPage = size_t{2} << 20;
    const size_t unit = bytes < kPage / 2 ? kLine : kPage, all = (bytes + unit - 1) / unit * unit;
    memory.reset(std::aligned_alloc(unit, all));
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    if (unit == kPage) madvise(memory.get(), all, MADV_HUGEPAGE);  // a wish: no matter if refused
#endif
  }
};

// Where a thread keeps a block between calls: one for each use at the same time.
enum class Kept { no, pack, work, own, gates, sums, count };

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size, Kept place = Kept::no) : place_(place) {
    const size_t bytes = size * sizeof(T);
    if (bytes > 0 && place != Kept::no && kept().size >= bytes)
      block_ = std::exchange(kept(), Block());
    else
      block_ = Block(bytes);
  }
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;
  ~Buffer() {
    if (place_ != Kept::no && block_.size > kept().size && block_.size <= kMost)
      kept() = std::move(block_);
  }
  T* get() const { return static_cast<T*>(block_.memory.get()); }  // null for none

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kMost =
      0;  // a larger block than asked for would hide what goes past its end
#else
  static constexpr size_t kMost = size_t{64} << 20;
#endif
  Block& kept() const {
    thread_local Block blocks[int(Kept::count)];
    return blocks[int(place_)];
  }
  Kept place_;
  Block block_;
};

}  // namespace stateful_lstm
