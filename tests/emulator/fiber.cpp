#include "fiber.h"

#include <cstdint>
#include <new>
#include <sys/mman.h>

#include "tsan.h"

namespace stateful_lstm::emulator {
namespace {

// ThreadSanitizer writes its reports on the stack of the fiber that it found. Untouched pages cost
// nothing.
constexpr size_t kStack = 256 * 1024;
constexpr size_t kGuard = 4096;  // below the stack: an overflow is caught

}  // namespace

#if defined(__x86_64__)

// Saves the callee-saved registers, swaps stacks, and returns to where the other fiber paused.
// (swapcontext also swaps signal masks by a system call, which takes ten times as long.)
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
  .text
  .p2align 4
  .globl emulator_switch
  .hidden emulator_switch
  .type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_switch, .-emulator_switch
)");

void Fiber::start_at(void (*entry)()) {
  auto** top = reinterpret_cast<void**>(memory_ + kGuard + kStack);
  *--top = nullptr;  // entry() must not return; the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the six registers
  inside_ = top;
}

void Fiber::run() {
  tsan_outside_ = tsan::here();
  tsan::switch_to(tsan_);
  emulator_switch(&outside_, inside_);
}

void Fiber::pause() {
  tsan::switch_to(tsan_outside_);
  emulator_switch(&inside_, outside_);
}

#else

void Fiber::start_at(void (*entry)()) {
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = memory_ + kGuard;
  inside_.uc_stack.ss_size = kStack;
  inside_.uc_link = nullptr;
  makecontext(&inside_, entry, 0);
}

void Fiber::run() {
  tsan_outside_ = tsan::here();
  tsan::switch_to(tsan_);
  swapcontext(&outside_, &inside_);
}

void Fiber::pause() {
  tsan::switch_to(tsan_outside_);
  swapcontext(&inside_, &outside_);
}

#endif

Fiber::Fiber() {
  void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  mprotect(memory_, kGuard, PROT_NONE);
  tsan_ = tsan::create();
}

Fiber::~Fiber() {
  tsan::destroy(tsan_);
  munmap(memory_, kGuard + kStack);
}

void Fiber::set_name(const char* name) { tsan::name(tsan_, name); }

void Fiber::sees_outside() {
  void* outside = tsan::here();
  tsan::release(tag_);
  tsan::switch_to(tsan_);
  tsan::acquire(tag_);
  tsan::switch_to(outside);
}

void Fiber::seen_outside() {
  void* outside = tsan::here();
  tsan::switch_to(tsan_);
  tsan::release(tag_);
  tsan::switch_to(outside);
  tsan::acquire(tag_);
}

}  // namespace stateful_lstm::emulator
