// Chooses the instruction set, once, when the first kernel is asked for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "memory.h"

namespace stateful_lstm::cpu {

void out_of_memory() { throw std::runtime_error("no memory inside a step"); }

namespace {

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

template <class S>
Kernels<S> choose() {
  const char* forced = std::getenv("STATEFUL_LSTM_CPU");
  const std::string name = forced ? forced : "";
  if (name == "portable" || (name.empty() && !has_avx2())) return portable::table<S>();
#if defined(__x86_64__)
  if (has_avx2() && (name.empty() || name == "avx2")) return avx2::table<S>();
#endif
  throw std::runtime_error("STATEFUL_LSTM_CPU=" + name +
                           " is not to be had: this machine runs portable" +
                           (has_avx2() ? " and avx2" : " only"));
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
