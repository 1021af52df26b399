// Selects the instruction set once, when the first kernel is requested.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stateful_lstm::cpu {

namespace {

// Whether the processor has AMX tiles of bfloat16 and the system lets this process use them. A thread gets
// memory for its tiles only after the process requests it.
[[maybe_unused]] bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24;
  constexpr int kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kBfloat16) || !(d & kTile)) return false;
  return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
#else
  return false;
#endif
}

template <class S>
struct Choice {
  const char* name;
  Kernels<S> (*table)();
};

// The kernels of type S for an instruction set with its own kernels for bfloat16 only. Other types use the
// table of the instruction set that it extends: its kernels would be the same code.
#define LSTM_BFLOAT16_OR(own, other)           \
  [] {                                         \
    if constexpr (std::is_same_v<S, bfloat16>) \
      return own::table<S>();                  \
    else                                       \
      return other::table<S>();                \
  }

// The instruction sets that this machine supports, best first.
template <class S>
std::vector<Choice<S>> available() {
  std::vector<Choice<S>> list;
#if defined(__x86_64__)
  const bool fma = __builtin_cpu_supports("fma");
#if !defined(STATEFUL_LSTM_WITHOUT_AVX512)  // setup.py defines it for sanitizer builds
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (fma && avx512 && __builtin_cpu_supports("avx512bf16")) {
    if (has_tiles()) list.push_back({"amx", LSTM_BFLOAT16_OR(amx, avx512)});
    list.push_back({"avx512bf16", LSTM_BFLOAT16_OR(avx512bf16, avx512)});
  }
  if (fma && avx512) list.push_back({"avx512", avx512::table<S>});
#endif
  if (fma && __builtin_cpu_supports("avx2")) list.push_back({"avx2", avx2::table<S>});
#endif
  list.push_back({"portable", portable::table<S>});
  list.push_back({"pairs", LSTM_BFLOAT16_OR(pairs, portable)});
  list.push_back({"tiles", LSTM_BFLOAT16_OR(tiles, portable)});
  return list;
}
#undef LSTM_BFLOAT16_OR

template <class S>
Kernels<S> choose() {
  const std::vector<Choice<S>> choices = available<S>();
  const char* forced = std::getenv("STATEFUL_LSTM_CPU");
  const auto made = [](const Choice<S>& choice) {
    Kernels<S> table = choice.table();
    table.name = choice.name;
    return table;
  };
  if (forced == nullptr || *forced == 0) return made(choices.front());
  for (const Choice<S>& each : choices)
    if (std::strcmp(each.name, forced) == 0) return made(each);
  throw std::runtime_error("STATEFUL_LSTM_CPU=" + std::string(forced) +
                           " is not supported; this machine supports " + available_names());
}

}  // namespace

std::string available_names() {
  std::string names;
  for (const Choice<float>& each : available<float>())
    names += std::string(names.empty() ? "" : ", ") + each.name;
  return names;
}

template <class S>
const Kernels<S>& kernels() {
  static const Kernels<S> chosen = choose<S>();
  return chosen;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<bfloat16>& kernels<bfloat16>();

}  // namespace stateful_lstm::cpu
