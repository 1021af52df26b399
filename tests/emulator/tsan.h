// The emulator's calls to ThreadSanitizer; empty without it. build.py defines EMULATOR_TSAN for the emulator's own
// files, which are compiled without the sanitizer, so that it watches the kernels only.
#pragma once
#include <cstddef>

#if defined(EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_acquire(void* tag);
void __tsan_release(void* tag);
void __tsan_func_entry(void* called_from);
void __tsan_func_exit();
void __tsan_read16(void* place);
void __tsan_write16(void* place);
}
#endif

namespace stateful_lstm::emulator::tsan {

#if defined(EMULATOR_TSAN)

inline void* here() { return __tsan_get_current_fiber(); }
inline void* create() { return __tsan_create_fiber(0); }
inline void destroy(void* fiber) { __tsan_destroy_fiber(fiber); }
// 1: a switch orders nothing; only the kernel's own synchronization orders threads.
inline void switch_to(void* fiber) { __tsan_switch_to_fiber(fiber, 1); }
inline void name(void* fiber, const char* text) { __tsan_set_fiber_name(fiber, text); }
inline void acquire(void* tag) { __tsan_acquire(tag); }
inline void release(void* tag) { __tsan_release(tag); }
inline void reads16(const void* place) { __tsan_read16(const_cast<void*>(place)); }
inline void writes16(void* place) { __tsan_write16(place); }
inline void enter(void* called_from) { __tsan_func_entry(called_from); }
inline void leave() { __tsan_func_exit(); }

#else

inline void* here() { return nullptr; }
inline void* create() { return nullptr; }
inline void destroy(void*) {}
inline void switch_to(void*) {}
inline void name(void*, const char*) {}
inline void acquire(void*) {}
inline void release(void*) {}
inline void reads16(const void*) {}
inline void writes16(void*) {}
inline void enter(void*) {}
inline void leave() {}

#endif

}  // namespace stateful_lstm::emulator::tsan
