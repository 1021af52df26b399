#include "cpu/thread_team.h"

#include <chrono>
#include <thread>

#include "cpu/heuristics.h"

namespace stateful_lstm::cpu {
namespace {

// Spins while `waiting()` is true, with pauses and later yields. `waiting` may check the elapsed time.
template <class F>
void spin_while(const F& waiting) {
  for (int spins = 0; waiting(); ++spins) {
    if (spins > heuristics::kSpins) {
      std::this_thread::yield();
    } else {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }
}

}  // namespace

void Barrier::wait_for_others(int64_t members) {
  const int64_t round = __atomic_load_n(&round_, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == members) {
    __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&round_, round + 1, __ATOMIC_RELEASE);
  } else {
    spin_while([&] { return __atomic_load_n(&round_, __ATOMIC_ACQUIRE) == round; });
  }
}

void Progress::wait_for(int64_t pieces) {
  spin_while([&] { return __atomic_load_n(&done_, __ATOMIC_ACQUIRE) < pieces; });
}

Part Gathering::enter(int64_t rows, int64_t call, int64_t expected) {
  constexpr int64_t kOpen = 0, kTogether = 1, kAlone = 2;
  const int64_t before = __atomic_fetch_add(&entered_, 1, __ATOMIC_ACQ_REL);
  const auto decide = [&](int64_t decision) {
    int64_t open = kOpen;
    return __atomic_compare_exchange_n(&decision_, &open, decision, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
  };
  if (before == expected - 1) {
    decide(kTogether);
  } else {
    const auto begin = std::chrono::steady_clock::now();
    constexpr auto kPatience = std::chrono::milliseconds(heuristics::kGatherMilliseconds);
    spin_while([&] {
      return __atomic_load_n(&decision_, __ATOMIC_ACQUIRE) == kOpen &&
             std::chrono::steady_clock::now() - begin < kPatience;
    });
    if (decide(kAlone)) return {0, rows, 0, 1, call};
  }
  if (__atomic_load_n(&decision_, __ATOMIC_ACQUIRE) == kAlone) return {0, rows, 0, 0, call};
  return {0, rows, call, expected, call};
}

}  // namespace stateful_lstm::cpu
