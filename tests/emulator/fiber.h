// A fiber: a stack of its own, and a place to go on from. Several share one thread of the machine,
// and leave it to another only where they say so.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace stateful_lstm::emulator {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next run() starts at entry(), which must not return. What the fiber did before is left as it is.
  void start_at(void (*entry)());
  // From outside: goes on with the fiber until it pauses.
  void run();
  // From inside: goes back to where run() was called.
  void pause();
  // A name for ThreadSanitizer's reports.
  void set_name(const char* name);
  // For ThreadSanitizer: what was done outside comes before what the fiber does next; and the reverse.
  void sees_outside();
  void seen_outside();

 private:
  unsigned char* memory_;
  void* tsan_ = nullptr;
  void* tsan_outside_ = nullptr;
#if defined(__x86_64__)
  void* inside_ = nullptr;  // stack pointers
  void* outside_ = nullptr;
#else
  ucontext_t inside_;
  ucontext_t outside_;
#endif
  alignas(8) char tag_[8];
};

}  // namespace stateful_lstm::emulator
