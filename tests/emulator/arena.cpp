#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "machine.h"

namespace stateful_lstm::emulator {
namespace {

constexpr unsigned char kNan = 255;  // in every byte: NaN in every number type
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kMargin =
    0;  // AddressSanitizer has better margins, and reports the line that crosses them
#else
constexpr size_t kMargin = 4096;
#endif

// The first byte that was changed, or `end`.
const unsigned char* changed(const unsigned char* begin, const unsigned char* end,
                             unsigned char from = kNan) {
  return std::find_if(begin, end, [=](unsigned char byte) { return byte != from; });
}

}  // namespace

Arena::Arena(size_t bytes, unsigned char fill) : bytes_(bytes), fill_(fill) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes + 2 * kMargin) != 0) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  begin_ = memory_ + kMargin;
  std::memset(memory_, kNan, kMargin);
  std::memset(begin_, fill, bytes);
  std::memset(begin_ + bytes, kNan, kMargin);
}

Arena::~Arena() { std::free(memory_); }

bool Arena::has(const void* place, size_t bytes) const {
  const auto* byte = static_cast<const unsigned char*>(place);
  return byte >= begin_ && byte + bytes <= begin_ + bytes_;
}

bool Arena::untouched() const { return changed(begin_, begin_ + bytes_, fill_) == begin_ + bytes_; }

void Arena::close() {
  std::memset(begin_, kNan, bytes_);
  closed_ = true;
}

std::string Arena::faults() const {
  if (changed(memory_, begin_) != begin_) return "a write before the beginning";
  const unsigned char* end = begin_ + bytes_;
  const unsigned char* past = changed(end, end + kMargin);
  if (past != end + kMargin) {
    return "a write past the end, to byte " + std::to_string(past - begin_) + " of " +
           std::to_string(bytes_);
  }
  if (closed_ && changed(begin_, end) != end) return "a write after the block had exited";
  return "";
}

}  // namespace stateful_lstm::emulator
