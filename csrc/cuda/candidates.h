// The list of candidates of a type, made from what is built. Included where the list is to live.
#pragma once
#include "cuda/instances/list.h"
#include "cuda/select_kernel.h"

namespace stateful_lstm::cuda {

template <class S, class Product>
Candidate<S> small_candidate(const char* way, bool tensor) {
  return {
      "small",
      way,
      Product::kRows,
      tensor,
      [](const Call& c) -> Grid {
        const int64_t bytes = c.backward ? small_backward_bytes<S, Product>(c.H)
                                         : small_forward_bytes<S, Product>(c.H);
        return {(c.B + Product::kRows - 1) / Product::kRows, Product::kThreads, bytes};
      },
      [](const Forward<S>& p, uint32_t*, const Stream& s) { run_forward_small<S, Product>(p, s); },
      [](const Backward<S>& p, uint32_t*, const Stream& s) {
        run_backward_small<S, Product>(p, s);
      },
      nullptr};
}

template <class S, class Product>
Candidate<S> cluster_candidate(const char* way, bool tensor) {
  return {"cluster",
          way,
          Product::kRows,
          tensor,
          [](const Call& c) {
            return cluster_grid<Product>(c.B, c.H,
                                         c.backward ? cluster_backward_bytes<Product>(c.H)
                                                    : cluster_forward_bytes<Product>(c.H));
          },
          [](const Forward<S>& p, uint32_t*, const Stream& s) {
            run_forward_cluster<S, Product>(p, s);
          },
          [](const Backward<S>& p, uint32_t*, const Stream& s) {
            run_backward_cluster<S, Product>(p, s);
          },
          nullptr};
}

template <class S, class Product>
Candidate<S> grid_candidate(const char* way, bool tensor) {
  return {"grid",
          way,
          Product::kRows,
          tensor,
          [](const Call& c) -> Grid {
            const int64_t bytes =
                c.backward ? grid_backward_bytes<Product>(c.H) : grid_forward_bytes<Product>(c.H);
            return grid_of_all<Product>(c.B, c.H, bytes);
          },
          run_forward_grid<S, Product>,
          run_backward_grid<S, Product>,
          nullptr};
}

template <class S, class Way>
Candidate<S> slices_candidate(const char* kernel, const char* way) {
  return {kernel,
          way,
          Way::Forward::kRows,
          true,
          [](const Call& c) {
            return c.backward ? backward_grid_of<Way>(c.B, c.H) : forward_grid_of<Way>(c.B, c.H);
          },
          run_forward_slices<S, Way>,
          run_backward_slices<S, Way>,
          nullptr};
}

template <class S, class Product>
Candidate<S> steps_candidate(const char* way, bool tensor) {
  return {
      "steps",
      way,
      Product::kRows,
      tensor,
      [](const Call& c) {
        return c.backward ? grid_of<Product, 1>(c.B, c.P) : grid_of<Product, 4>(c.B, c.H);
      },
      [](const Forward<S>& p, uint32_t*, const Stream& s) { run_forward_steps<S, Product>(p, s); },
      [](const Backward<S>& p, uint32_t*, const Stream& s) {
        run_backward_steps<S, Product>(p, s);
      },
      run_resident_step<S, Product>};
}

template <class S, class T>
constexpr bool kSame = false;
template <class S>
constexpr bool kSame<S, S> = true;

template <class P>
struct Way {
  using Product = P;
  const char* name;
};

template <class S>
const std::vector<Candidate<S>>& candidates() {
  static const std::vector<Candidate<S>> all = [] {
    std::vector<Candidate<S>> list;
#define LSTM_ADD(Type, ...)     \
  if constexpr (kSame<S, Type>) \
    list.push_back(slices_candidate<S, __VA_ARGS__>(kernel, #__VA_ARGS__));
    const char* kernel = "small";
    LSTM_BLOCKS(LSTM_ADD)
    kernel = "cluster";
    LSTM_CLUSTERS(LSTM_ADD)
    kernel = "grid";
    LSTM_GRIDS(LSTM_ADD)
#undef LSTM_ADD
#define LSTM_ADD(Type, ...) \
  if constexpr (kSame<S, Type>) list.push_back(make(Way<__VA_ARGS__>{#__VA_ARGS__}));
    const auto in_simt_ways = [&](const auto& make) { LSTM_SIMT(LSTM_ADD) };
    const auto in_tensor_ways = [&](const auto& make) { LSTM_TENSOR(LSTM_ADD) };
#undef LSTM_ADD
    in_simt_ways([](auto way) {
      return small_candidate<S, typename decltype(way)::Product>(way.name, false);
    });
    in_simt_ways([](auto way) {
      return cluster_candidate<S, typename decltype(way)::Product>(way.name, false);
    });
    in_simt_ways([](auto way) {
      return grid_candidate<S, typename decltype(way)::Product>(way.name, false);
    });
    in_tensor_ways([](auto way) {
      return steps_candidate<S, typename decltype(way)::Product>(way.name, true);
    });
    in_simt_ways([](auto way) {
      return steps_candidate<S, typename decltype(way)::Product>(way.name, false);
    });
    return list;
  }();
  return all;
}

}  // namespace stateful_lstm::cuda
