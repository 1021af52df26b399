// A fiber: a stack and a place to resume from. Several fibers share one thread of the machine, and switch only where
// they ask for it.
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

  // The next run() starts at entry(), which must not return. Its earlier work is abandoned.
  void start_at(void (*entry)());
  // From outside: resumes the fiber until it pauses.
  void run();
  // From inside: returns to the caller of run().
  void pause();
  // A name for ThreadSanitizer's reports.
  void set_name(const char* name);
  // For ThreadSanitizer: everything outside so far happens before the fiber's next actions; and the reverse.
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
