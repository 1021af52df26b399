// The recurrence of a whole sequence, forward and backward, for a range of rows.
// Included only by isa_*.cpp, after panel.h. Shapes: params.h.
//
// Forward, each step: h_in (rows, P) times the packed weight_hh, then gates and cell at once from
// the sums in registers. The sums never reach memory, and a panel of weights is read once for all
// rows of the thread. Backward, each step: gradients of the gates from the saved gates and cells,
// then their product with weight_hh. h and c of the rows live in a scratch that stays in L1/L2.

// Memory of one call of one thread, freed at its end. Not std::vector: see simd.h.
template <class A>
struct Scratch {
  A* data;
  explicit Scratch(int64_t count) : data(static_cast<A*>(std::malloc(count * sizeof(A) + 1))) {
    if (data == nullptr) out_of_memory();
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

template <class A>
LSTM_INLINE void zero(A* p, int64_t n) {
  __builtin_memset(static_cast<void*>(p), 0, n * sizeof(A));
}

template <class S>
LSTM_INLINE bool is_live(const SequenceParams<S>& a, int64_t t, int64_t b) {
  return a.lengths == nullptr || t < a.lengths[b];
}
template <class S>
LSTM_INLINE bool is_reset(const SequenceParams<S>& a, int64_t t, int64_t b) {
  return a.reset != nullptr && a.reset[t * a.B + b];
}

// Gates, cell and hidden state of one row and one vector of units, from the recurrent sums.
template <class S>
LSTM_INLINE void forward_cell(const ForwardParams<S>& a, int64_t step_row, int64_t unit,
                              const Vec<Acc<S>> (&sum)[kGroup], Acc<S>* c, Acc<S>* hidden,
                              bool last_product) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t n = a.H - unit;  // lanes that exist
  const A* x = a.gates_x + step_row * 4 * a.H + unit;
  const Gates<V> gate =
      activate<Math<A>, V>({load(x, n) + sum[0], load(x + a.H, n) + sum[1],
                            load(x + 2 * a.H, n) + sum[2], load(x + 3 * a.H, n) + sum[3]});
  const V cell = cell_state(gate, load(c + unit, n));
  V h = hidden_state<Math<A>>(gate.o, cell);
  if (last_product) h = round_to<S>(h);  // before a projection h stays exact
  store(c + unit, cell, n);
  store(hidden + unit, h, n);
  if (a.gates != nullptr) {
    S* out = a.gates + step_row * 4 * a.H + unit;
    store(out, gate.i, n);
    store(out + a.H, gate.f, n);
    store(out + 2 * a.H, gate.g, n);
    store(out + 3 * a.H, gate.o, n);
  }
  if (a.cells != nullptr) store(a.cells + step_row * a.H + unit, cell, n);
}

template <class S, int R>
LSTM_INLINE void forward_tile(const ForwardParams<S>& a, const Acc<S>* pack, int64_t t, int64_t b,
                              int64_t panel, const Acc<S>* h_in, Acc<S>* c, Acc<S>* hidden) {
  using A = Acc<S>;
  bool any = false;
  for (int r = 0; r < R; ++r) any |= is_live(a, t, b + r);
  if (!any) return;
  Vec<A> sum[R][kGroup];
  tile_product<A, R>(sum, h_in, a.P, a.P, pack + panel * a.P * kGroup * kLanes<A>);
  for (int r = 0; r < R; ++r)
    if (is_live(a, t, b + r))
      forward_cell(a, t * a.B + b + r, panel * kLanes<A>, sum[r], c + r * a.H, hidden + r * a.H,
                   a.weight_hr == nullptr);
}

template <class S>
void load_rows(Acc<S>* to, const S* from, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes<Acc<S>>) store(to + k, load(from + k, n - k), n - k);
}
template <class S>
void store_rows(S* to, const Acc<S>* from, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes<Acc<S>>) store(to + k, load(from + k, n - k), n - k);
}

// The weights as the columns of the products that h (rows, P) and hidden (rows, H) go into.
template <class S>
Packed<S> forward_weights(const SequenceParams<S>& a) {
  return {{a.weight_hh, a.P, 4 * a.H, 1, a.P, true},
          {a.weight_hr, a.H, a.weight_hr ? a.P : 0, 1, a.H, false}};
}

template <class S>
void forward_rows(const ForwardParams<S>& a, const Acc<S>* pack, int64_t begin, int64_t end) {
  using A = Acc<S>;
  const int64_t rows = end - begin, H = a.H, P = a.P;
  const Packed<S> weights = forward_weights(static_cast<const SequenceParams<S>&>(a));
  const A* projection = pack + weights.hh.pack_size();
  const int64_t unit_panels = weights.hh.panels();
  Scratch<A> h_buffer(rows * P), next_buffer(rows * P), c_buffer(rows * H);
  Scratch<A> masked_buffer(a.recurrent_mask ? rows * P : 0);
  Scratch<A> hidden_buffer(a.weight_hr ? rows * H : 0);
  A *h = h_buffer.data, *h_next = next_buffer.data, *c = c_buffer.data;
  load_rows(h, a.h0 + begin * P, rows * P);
  load_rows(c, a.c0 + begin * H, rows * H);

  for (int64_t step = 0; step < a.T; ++step) {
    const int64_t t = a.reverse ? a.T - 1 - step : step;
    for (int64_t r = 0; r < rows; ++r)  // a reset selects zero: 0 * NaN would stay NaN
      if (is_live(a, t, begin + r) && is_reset(a, t, begin + r)) {
        zero(h + r * P, P);
        zero(c + r * H, H);
      }
    const A* h_in = h;
    if (a.recurrent_mask) {
      for (int64_t k = 0; k < rows * P; ++k)
        masked_buffer.data[k] = h[k] * widen(a.recurrent_mask[begin * P + k]);
      h_in = masked_buffer.data;
    }
    A* hidden = a.weight_hr ? hidden_buffer.data : h_next;
    if (a.weight_hr && a.lengths) zero(hidden, rows * H);  // rows that have ended write nothing
    for (int64_t p = 0; p < unit_panels; ++p) {
      int64_t r = 0;
      for (; r + 3 <= rows; r += 3)
        forward_tile<S, 3>(a, pack, t, begin + r, p, h_in + r * P, c + r * H, hidden + r * H);
      if (rows - r == 2)
        forward_tile<S, 2>(a, pack, t, begin + r, p, h_in + r * P, c + r * H, hidden + r * H);
      if (rows - r == 1)
        forward_tile<S, 1>(a, pack, t, begin + r, p, h_in + r * P, c + r * H, hidden + r * H);
    }
    if (a.weight_hr) plain_product(h_next, P, hidden, H, rows, H, P, projection);
    for (int64_t r = 0; r < rows; ++r) {
      S* y = a.y + (t * a.B + begin + r) * P;
      if (is_live(a, t, begin + r)) {
        store_rows(y, h_next + r * P, P);
        if (a.weight_hr) load_rows(h_next + r * P, static_cast<const S*>(y), P);  // as rounded
      } else {
        zero(y, P);
        __builtin_memcpy(h_next + r * P, h + r * P, P * sizeof(A));
        if (a.gates) zero(a.gates + (t * a.B + begin + r) * 4 * H, 4 * H);
        if (a.cells) zero(a.cells + (t * a.B + begin + r) * H, H);
      }
    }
    A* swap = h;
    h = h_next;
    h_next = swap;
  }
  store_rows(a.h_n + begin * P, static_cast<const A*>(h), rows * P);
  store_rows(a.c_n + begin * H, static_cast<const A*>(c), rows * H);
}

// The weights as the columns of the products that the gradients of gates and of h go into.
template <class S>
Packed<S> backward_weights(const SequenceParams<S>& a) {
  return {{a.weight_hh, 4 * a.H, a.P, a.P, 1, false},
          {a.weight_hr, a.P, a.weight_hr ? a.H : 0, a.H, 1, false}};
}

// The cell before step t of a row, as the step saw it.
template <class S>
LSTM_INLINE const Acc<S>* previous_cell(const BackwardParams<S>& a, int64_t t, int64_t b) {
  const int64_t first = !a.reverse ? 0 : (a.lengths ? a.lengths[b] : a.T) - 1;
  if (t == first) return a.c0 + b * a.H;
  return a.cells + ((a.reverse ? t + 1 : t - 1) * a.B + b) * a.H;
}

// Gradients of one row's gates at step t; dc becomes the gradient of the cell before it.
template <class S>
void backward_cell_row(const BackwardParams<S>& a, int64_t t, int64_t b, const Acc<S>* dh,
                       Acc<S>* dc) {
  using A = Acc<S>;
  using V = Vec<A>;
  const int64_t step_row = t * a.B + b, H = a.H;
  const bool reset = is_reset(static_cast<const SequenceParams<S>&>(a), t, b);
  const A* c_prev = previous_cell(a, t, b);
  for (int64_t unit = 0; unit < H; unit += kLanes<A>) {
    const int64_t n = H - unit;
    const S* saved = a.gates + step_row * 4 * H + unit;
    const Gates<V> gate = {load(saved, n), load(saved + H, n), load(saved + 2 * H, n),
                           load(saved + 3 * H, n)};
    const V before = reset ? V{} : load(c_prev + unit, n);
    const CellGrad<V> grad =
        cell_backward<Math<A>, V>(gate, load(a.cells + step_row * H + unit, n), before,
                                  load(dh + unit, n), load(static_cast<const A*>(dc) + unit, n));
    A* out = a.grad_gates + step_row * 4 * H + unit;
    store(out, grad.gates.i, n);
    store(out + H, grad.gates.f, n);
    store(out + 2 * H, grad.gates.g, n);
    store(out + 3 * H, grad.gates.o, n);
    store(dc + unit, reset ? V{} : grad.c_prev, n);
  }
}

template <class S>
void backward_rows(const BackwardParams<S>& a, const Acc<S>* pack, int64_t begin, int64_t end) {
  using A = Acc<S>;
  const int64_t rows = end - begin, H = a.H, P = a.P;
  const A* projection =
      pack + backward_weights(static_cast<const SequenceParams<S>&>(a)).hh.pack_size();
  Scratch<A> dh_buffer(rows * P), dh_prev_buffer(rows * P), dc_buffer(rows * H);
  Scratch<A> hidden_buffer(a.weight_hr ? rows * H : 0);
  A *dh = dh_buffer.data, *dh_prev = dh_prev_buffer.data, *dc = dc_buffer.data;
  zero(dh, rows * P);
  zero(dc, rows * H);
  if (a.grad_h_n) load_rows(dh, a.grad_h_n + begin * P, rows * P);
  if (a.grad_c_n) load_rows(dc, a.grad_c_n + begin * H, rows * H);

  for (int64_t step = a.T - 1; step >= 0; --step) {
    const int64_t t = a.reverse ? a.T - 1 - step : step;
    const int64_t first_row = t * a.B + begin;
    for (int64_t r = 0; r < rows; ++r) {
      if (!is_live(a, t, begin + r)) {
        zero(a.grad_gates + (first_row + r) * 4 * H, 4 * H);
        if (a.weight_hr) zero(a.grad_hidden + (first_row + r) * P, P);
        continue;
      }
      if (a.grad_y)
        for (int64_t k = 0; k < P; k += kLanes<A>)
          store(dh + r * P + k,
                load(static_cast<const A*>(dh) + r * P + k, P - k) +
                    load(a.grad_y + (first_row + r) * P + k, P - k),
                P - k);
      if (a.weight_hr)
        __builtin_memcpy(a.grad_hidden + (first_row + r) * P, dh + r * P, P * sizeof(A));
    }
    const A* d_hidden = dh;
    if (a.weight_hr) {
      plain_product(hidden_buffer.data, H, static_cast<const A*>(dh), P, rows, P, H, projection);
      d_hidden = hidden_buffer.data;
    }
    for (int64_t r = 0; r < rows; ++r)
      if (is_live(a, t, begin + r))
        backward_cell_row(a, t, begin + r, d_hidden + r * H, dc + r * H);
    plain_product(dh_prev, P, static_cast<const A*>(a.grad_gates) + first_row * 4 * H, 4 * H, rows,
                  4 * H, P, pack);
    for (int64_t r = 0; r < rows; ++r) {
      if (!is_live(a, t, begin + r)) {  // the state went past this step unchanged
        __builtin_memcpy(dh_prev + r * P, dh + r * P, P * sizeof(A));
      } else if (is_reset(a, t, begin + r)) {
        zero(dh_prev + r * P, P);
      } else if (a.recurrent_mask) {
        for (int64_t k = 0; k < P; ++k)
          dh_prev[r * P + k] *= widen(a.recurrent_mask[(begin + r) * P + k]);
      }
    }
    A* swap = dh;
    dh = dh_prev;
    dh_prev = swap;
  }
  __builtin_memcpy(a.grad_h0 + begin * P, dh, rows * P * sizeof(A));
  __builtin_memcpy(a.grad_c0 + begin * H, dc, rows * H * sizeof(A));
}
