// Chooses the instruction set, once, when the first kernel is asked for.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace stateful_lstm::cpu {

namespace {

template <class S>
struct Choice {
  std::string name;
  Kernels<S> (*table)();
};

// What this machine runs, the best first.
template <class S>
std::vector<Choice<S>> available() {
  std::vector<Choice<S>> list;
#if defined(__x86_64__)
  const bool fma = __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (fma && avx512 && __builtin_cpu_supports("avx512bf16"))
    list.push_back({"avx512bf16", avx512bf16::table<S>});
  if (fma && avx512) list.push_back({"avx512", avx512::table<S>});
  if (fma && __builtin_cpu_supports("avx2")) list.push_back({"avx2", avx2::table<S>});
#endif
  list.push_back({"portable", portable::table<S>});
  list.push_back({"pairs", pairs::table<S>});
  return list;
}

template <class S>
Kernels<S> choose() {
  const std::vector<Choice<S>> choices = available<S>();
  const char* forced = std::getenv("STATEFUL_LSTM_CPU");
  if (forced == nullptr || *forced == 0) return choices.front().table();
  for (const Choice<S>& each : choices)
    if (each.name == forced) return each.table();
  throw std::runtime_error("STATEFUL_LSTM_CPU=" + std::string(forced) +
                           " is not to be had: this machine runs " + available_names());
}

}  // namespace

std::string available_names() {
  std::string names;
  for (const Choice<float>& each : available<float>())
    names += (names.empty() ? "" : ", ") + each.name;
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
