// Chooses the instruction set, once, when the first kernel is asked for.
#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace stateful_lstm::cpu {

namespace {

// What this machine runs, the widest first.
std::vector<std::string> available() {
  std::vector<std::string> names;
#if defined(__x86_64__)
  const bool fma = __builtin_cpu_supports("fma");
  if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    names.push_back("avx512");
  if (fma && __builtin_cpu_supports("avx2")) names.push_back("avx2");
#endif
  names.push_back("portable");
  return names;
}

template <class S>
Kernels<S> choose() {
  const std::vector<std::string> names = available();
  const char* forced = std::getenv("STATEFUL_LSTM_CPU");
  const std::string name = forced && *forced ? forced : names.front();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    std::string list;
    for (const std::string& each : names) list += (list.empty() ? "" : ", ") + each;
    throw std::runtime_error("STATEFUL_LSTM_CPU=" + name + " is not to be had: this machine runs " +
                             list);
  }
#if defined(__x86_64__)
  if (name == "avx512") return avx512::table<S>();
  if (name == "avx2") return avx2::table<S>();
#endif
  return portable::table<S>();
}

}  // namespace

template <class S>
const Kernels<S>& kernels() {
  static const Kernels<S> chosen = choose<S>();
  return chosen;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<bfloat16>& kernels<bfloat16>();

}  // namespace stateful_lstm::cpu
