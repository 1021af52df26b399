"""A row's bits depend on neither batch, nor cut into calls, nor neighbours, nor threads.

That holds inside each of three ways of computing, which order their sums differently and so differ
from each other in the last bits:

* steps: inference of at most 4 steps (`lstm_step_` and its short way), one direction;
* in place: other inference of B <= 4 with T * B up to a number that grows with the weights, or with
  weights too large for the cache, and with STATEFUL_LSTM_PACK=never for any T; no projection; in
  bfloat16 only where the processor has its products;
* packed: all the rest, and with STATEFUL_LSTM_PACK=always everything but the steps.

Training takes the last two as inference does, so that its outputs have the same bits. The backward
recurrence is packed always. In bfloat16 on AMX's tiles all three are one, but for projections.
"""

import hashlib
import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_support import noise, same_bits

from stateful_lstm import StatefulLSTM, ops

pytestmark = [
    pytest.mark.skipif(ops.missing is not None, reason="needs the library"),
    pytest.mark.usefixtures("one_thread"),
]

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TILED = ops.missing is None and ops.cpu_capability() in ("amx", "tiles")
SIZES = [1, 7, 8, 33, 64, 100]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
sizes = pytest.mark.parametrize("H", SIZES)
few = settings(max_examples=20, deadline=None, derandomize=True)


def sums_of(dtype):
    return torch.float32 if dtype == torch.bfloat16 else dtype


@pytest.fixture
def threads():
    """Sets the number of threads, which is put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ---- steps ---------------------------------------------------------------------------------------


class Steps:
    """A stack, its input, and what each row gives alone, one step a call: the truth."""

    def __init__(self, H, dtype, rows=130, steps=4, inputs=None, **config):
        torch.manual_seed(3)
        self.lstm = StatefulLSTM(inputs or H + 2, H, dtype=dtype, **config)
        self.x = noise(steps, rows, inputs or H + 2, dtype=dtype)
        sizes = self.lstm.new_state(rows)
        self.h0 = noise(*sizes.h.shape, seed=2, dtype=dtype)
        self.c0 = noise(*sizes.c.shape, seed=3, dtype=sums_of(dtype))
        self.y = torch.empty(steps, rows, sizes.h.size(2) * (2 if self.lstm.bidirectional else 1))
        self.y = self.y.to(dtype)
        self.h, self.c = torch.empty_like(self.h0), torch.empty_like(self.c0)
        for b in range(rows):
            state = self.state([b])
            for t in range(steps):
                self.y[t, b] = self.call(self.x[t : t + 1, b : b + 1], state)[0, 0]
            self.h[:, b], self.c[:, b] = state.h[:, 0], state.c[:, 0]

    def state(self, rows):
        state = self.lstm.new_state(len(rows))
        state.write((self.h0[:, rows], self.c0[:, rows]))
        return state

    def call(self, x, state, **options):
        with torch.no_grad():
            return self.lstm(x, state=state, **options)[0]

    def check(self, rows, y, state, slots=slice(None)):
        assert same_bits(y, self.y[:, rows])
        assert same_bits(state.h[:, slots], self.h[:, rows])
        assert same_bits(state.c[:, slots], self.c[:, rows])


def through_the_dispatcher(monkeypatch):
    monkeypatch.setattr(ops, "quick_step", None)


@dtypes
@sizes
def test_steps_of_a_row_are_the_same_in_every_batch(dtype, H):
    batches = [1, 2, 3, 4, 5, 11, 13, 24, 25]
    if H == 33:
        batches += [47, 48, 49, 96, 97, 130]
    last = batches[-1]
    steps = Steps(H, dtype, rows=last, num_layers=2)
    for B in batches:
        rows = list(range(last - B, last))
        state = steps.state(rows)
        steps.check(rows, steps.call(steps.x[:, rows], state), state)


@dtypes
@pytest.mark.parametrize("config", [{"proj_size": 5}, {"bias": False}, {"bidirectional": True}])
def test_steps_of_other_layers_are_the_same_in_every_batch(dtype, config):
    steps = Steps(9, dtype, rows=50, steps=1 if "bidirectional" in config else 4, **config)
    for B in (2, 3, 7, 47, 48, 49):
        rows = list(range(B))
        state = steps.state(rows)
        steps.check(rows, steps.call(steps.x[:, rows], state), state)


@dtypes
def test_steps_through_the_operator_are_those_of_the_short_way(dtype, monkeypatch):
    steps = Steps(33, dtype, rows=50)
    through_the_dispatcher(monkeypatch)
    for B in (1, 4, 49):
        rows = list(range(B))
        state = steps.state(rows)
        steps.check(rows, steps.call(steps.x[:, rows], state), state)


@dtypes
@pytest.mark.parametrize("cut", [[4], [1, 3], [2, 2], [3, 1], [1, 2, 1], [1, 1, 1, 1]], ids=str)
def test_steps_are_the_same_in_one_call_and_in_several(dtype, cut):
    steps = Steps(33, dtype, rows=6, num_layers=2)
    rows = list(range(6))
    state = steps.state(rows)
    y = torch.cat([steps.call(part, state) for part in steps.x.split(cut)])
    steps.check(rows, y, state)


# So many inputs a row that a few rows' products with them are begun for all steps at once.
@dtypes
@pytest.mark.parametrize("config", [{"num_layers": 2}, {"proj_size": 5}, {"bias": False}], ids=str)
@pytest.mark.parametrize("cut", [[4], [1, 3], [2, 2]], ids=str)
def test_steps_of_many_inputs_are_the_same_in_every_batch_and_cut(dtype, config, cut):
    steps = Steps(19, dtype, rows=9, inputs=1100, **config)
    for B in (1, 2, 3, 4, 5, 8, 9):
        rows = list(range(9 - B, 9))
        state = steps.state(rows)
        y = torch.cat([steps.call(part, state) for part in steps.x[:, rows].split(cut)])
        steps.check(rows, y, state)


@dtypes
def test_steps_of_many_inputs_with_resets_lengths_and_padding(dtype):
    steps = Steps(19, dtype, rows=3, inputs=1100, num_layers=2)
    state = steps.state([0, 1, 2])
    state.h[:, 1], state.c[:, 1] = float("nan"), float("inf")
    x = steps.x.clone()
    x[2:, 1], x[:, 2] = float("nan"), float("nan")  # past its end; padding
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[0, 1] = mask[1, 1] = True
    y = steps.call(
        x,
        state,
        reset_mask=mask,
        lengths=torch.tensor([4, 2, 4]),
        state_indices=torch.tensor([0, 1, -1]),
    )
    steps.check([0], y[:, :1], state, [0])
    alone = steps.lstm.new_state(1)
    steps.call(x[:1, 1:2], alone, reset_mask=mask[:1, 1:2])
    last = steps.call(x[1:2, 1:2], alone, reset_mask=mask[1:2, 1:2])
    assert same_bits(y[1, 1], last[0, 0])
    assert same_bits(state.h[:, 1], alone.h[:, 0]) and same_bits(state.c[:, 1], alone.c[:, 0])
    assert (y[2:, 1] == 0).all() and (y[:, 2] == 0).all()
    assert same_bits(state.h[:, 2], steps.h0[:, 2])


@pytest.mark.skipif(not TILED, reason="needs AMX's tiles, or those written out")
@sizes
@pytest.mark.parametrize("B", [1, 2, 16, 17, 50])
def test_tiles_give_steps_and_sequences_of_bfloat16_the_same_bits(H, B):
    steps = Steps(H, torch.bfloat16, rows=B)
    start = steps.h0, steps.c0
    y, (h, _) = steps.lstm(steps.x, start)  # training: packed
    assert same_bits(y.detach(), steps.y) and same_bits(h.detach(), steps.h)
    first, state = steps.lstm(steps.x[:1], start)  # packed in passing
    assert same_bits(first[0].detach(), steps.y[0]) and same_bits(state[0][0].detach(), first[0])


@few
@given(st.data())
def test_steps_in_any_slot_beside_any_neighbours(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    H = data.draw(st.sampled_from(SIZES))
    steps = Steps(H, dtype, rows=3)
    slots = data.draw(st.integers(3, 60))
    places = data.draw(st.permutations(range(slots)))
    B = data.draw(st.integers(3, slots))
    # Rows 0, 1, 2 of the truth stand somewhere among rows of NaN and padding.
    where = data.draw(st.permutations(range(B)))[:3]
    index = torch.tensor(places[:B])
    padding = [b for b in range(B) if b not in where and data.draw(st.booleans())]
    mine = index[where]
    index[padding] = -1
    x = torch.full((4, B, H + 2), float("nan"), dtype=dtype)
    x[:, where] = steps.x
    state = steps.lstm.new_state(slots)
    state.h.fill_(float("nan"))
    state.c.fill_(float("inf"))
    state.h[:, mine], state.c[:, mine] = steps.h0, steps.c0
    y = steps.call(x, state, state_indices=index)
    steps.check([0, 1, 2], y[:, where], state, mine)


@dtypes
def test_steps_with_resets_in_other_rows(dtype):
    steps = Steps(33, dtype, rows=6)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, [1, 4]] = noise(4, 2, seed=5) > 0
    state = steps.state(list(range(6)))
    y = steps.call(steps.x, state, reset_mask=mask)
    rows = [0, 2, 3, 5]
    steps.check(rows, y[:, rows], state, rows)
    assert not same_bits(y, steps.y)


@dtypes
@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"proj_size": 130, "num_layers": 2}])
def test_steps_by_any_number_of_threads(dtype, config, threads):
    threads(1)
    steps = Steps(260, dtype, rows=9, steps=2, **config)
    for count in (1, 2, 3, 7) + 4 * (2,):
        threads(count)
        for B in (1, 9):
            rows = list(range(B))
            state = steps.state(rows)
            steps.check(rows, steps.call(steps.x[:, rows], state), state)


# ---- sequences -----------------------------------------------------------------------------------


class Layer:
    """One layer's weights and its whole input; rows and steps of it can be run in any cut."""

    def __init__(self, H, dtype, T=24, rows=12, proj=None, bias=True, reverse=False):
        wide, P, inputs = sums_of(dtype), proj or H, 5
        scale = (inputs + P) ** -0.5
        self.weights = [
            noise(4 * H, inputs, seed=1, dtype=dtype) * scale * 3,
            noise(4 * H, P, seed=2, dtype=dtype) * scale * 3,
            noise(4 * H, seed=3, dtype=dtype) if bias else None,
            noise(4 * H, seed=4, dtype=dtype) if bias else None,
            noise(P, H, seed=5, dtype=dtype) if proj else None,
        ]
        self.T, self.rows, self.reverse = T, rows, reverse
        self.x = noise(T, rows, inputs, seed=6, dtype=dtype)
        self.h0 = noise(rows, P, seed=7, dtype=dtype)
        self.c0 = noise(rows, H, seed=8, dtype=wide)
        self.reset = noise(T, rows, seed=9) > 1
        self.mask = (noise(rows, P, seed=10) > 0).to(dtype) * 2

    def run(self, rows, cut=(), save=0, lengths=None, reset=None, mask=None):
        """y, h_n, c_n, gates, cells of some rows, the steps cut into calls."""
        rows = list(rows)
        h, c = self.h0[rows], self.c0[rows]
        parts = []
        edges = [0, *cut, self.T]
        calls = list(itertools.pairwise(edges))
        for begin, end in calls[::-1] if self.reverse else calls:
            y, h, c, *saved = ops.lstm_forward(
                self.x[begin:end, rows],
                *self.weights,
                h,
                c,
                None if reset is None else reset[begin:end, rows],
                None if lengths is None else (lengths[rows] - begin).clamp(0, end - begin),
                None if mask is None else mask[rows],
                self.reverse,
                save,
                in_place=True,
            )
            parts.append((y, *saved))
        joined = [
            torch.cat(each) for each in zip(*parts[:: -1 if self.reverse else 1], strict=True)
        ]
        return {"y": joined[0], "h_n": h, "c_n": c, "gates": joined[1], "cells": joined[2]}


def rows_of(results, rows):
    """Of what a call gave, these rows; arrays over time have them second."""
    return {k: t[:, rows] if t.dim() == 3 else t[rows] for k, t in results.items()}


def assert_equal(found, expected):
    for name in expected:
        assert same_bits(found[name], expected[name]), name


FORMS = {
    "plain": {},
    "no_bias": {"bias": False},
    "proj": {"proj": 3},
    "reverse": {"reverse": True},
}
CUTS = [(), (1,), (23,), (5, 10), (3, 4, 20), tuple(range(1, 24))]


def check_packed(batches, dtype, H, form):
    """Packed weights: whatever batch, order and cut, a row's bits are the same.

    Returns a digest of them, so that processes can be compared.
    """
    if form.get("proj", 0) >= H:
        form = {}
    layer = Layer(H, dtype, **form)
    whole = layer.run(range(12), save=2)
    for B in batches:
        first = B % (13 - B)
        rows = list(range(first, first + B))[::-1]
        for cut in CUTS if batches[0] == B else CUTS[3:4]:
            assert_equal(layer.run(rows, cut, save=2), rows_of(whole, rows))
        assert_equal(layer.run(rows), rows_of(layer.run(range(12)), rows))
    return hashlib.sha1(b"".join(t.view(torch.uint8).numpy().tobytes() for t in whole.values()))


def check_packed_controls(batches, dtype, H):
    """The same with resets, lengths and dropout masks, which touch no row but their own."""
    layer = Layer(H, dtype)
    lengths = torch.tensor([24, 0, 3, 17, 24, 1, 9, 24, 23, 24, 5, 24])
    controls = {"lengths": lengths, "reset": layer.reset, "mask": layer.mask}
    steered, free = layer.run(range(12), save=2, **controls), layer.run(range(12), save=2)
    for B in batches:
        rows = list(range(12 - B, 12))
        for cut in ((), (5, 10), (3, 4, 20)):
            assert_equal(layer.run(rows, cut, 2, **controls), rows_of(steered, rows))
        # Controls of all rows but the first of them.
        mine, row = {}, rows[0]
        mine["lengths"], mine["reset"] = lengths.clone(), layer.reset.clone()
        mine["lengths"][row], mine["reset"][:, row] = 24, False
        found = layer.run(rows, save=2, **mine)
        assert_equal(rows_of(found, [0]), rows_of(free, [row]))


def check_poisoned(batches, dtype, H):
    """Neighbours of NaN and infinity reach no other row."""
    layer = Layer(H, dtype)
    clean = layer.run(range(12), save=2)
    for B in batches:
        rows = list(range(B))
        for bad in rows[:: max(1, B - 1)]:
            spoilt = Layer(H, dtype)
            spoilt.x[:, bad] = float("nan")
            spoilt.c0[bad] = float("inf")
            good = [b for b in rows if b != bad]
            assert_equal(rows_of(spoilt.run(rows, save=2), good), rows_of(clean, good))


def check_module(batches, dtype):
    """Through the module: T steps in inference in calls of five or more, and in training."""
    torch.manual_seed(4)
    lstm = StatefulLSTM(5, 33, 2, dtype=dtype)
    x = noise(30, 12, 5, dtype=dtype)

    def run(rows, parts, grad):
        state = lstm.new_state(len(rows))
        ys = []
        for part in x[:, rows].split(parts):
            with torch.set_grad_enabled(grad):
                y, (h_n, c_n) = lstm(part, state=state)
            assert same_bits(h_n.to(state.h.dtype), state.h)
            assert same_bits(c_n, state.c.to(c_n.dtype))
            ys.append(y)
        return {"y": torch.cat(ys), "h": state.h, "c": state.c}

    whole = run(list(range(12)), [30], False)
    for B in batches:
        rows = list(range(12 - B, 12))
        for parts in ([30], [5, 25], [13, 17], [5] * 6):
            for grad in (False, True):
                assert_equal(run(rows, parts, grad), rows_of(whole, rows))


def print_digests(batches):
    """What is printed is to be the same in every process."""
    for dtype in DTYPES:
        for form in FORMS.values():
            print(check_packed(batches, dtype, 33, form).hexdigest())


def check_all_packed(batches):
    """Everything above."""
    torch.set_num_threads(1)
    print_digests(batches)
    for dtype in DTYPES:
        for H in (1, 7, 24):  # of 24 and 33 the gates of the last units share vectors
            check_packed(batches, dtype, H, {})
        check_packed_controls(batches, dtype, 33)
        check_poisoned(batches, dtype, 9)
        check_module(batches, dtype)


@dtypes
@sizes
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_packed_rows_are_the_same_in_every_batch_and_cut(dtype, H, form):
    check_packed([5, 6, 7, 11, 12], dtype, H, form)


@dtypes
def test_packed_rows_do_not_notice_the_controls_of_others(dtype):
    for H in (7, 33, 100):
        check_packed_controls([5, 7, 12], dtype, H)


@dtypes
def test_packed_rows_do_not_notice_what_others_hold(dtype):
    check_poisoned([5, 7, 12], dtype, 33)


@dtypes
def test_packed_rows_through_the_module(dtype):
    check_module([5, 7, 12], dtype)


@dtypes
@pytest.mark.parametrize("B", [1, 2, 3, 4])
def test_few_rows_with_a_projection_are_packed_too(dtype, B):
    layer = Layer(33, dtype, proj=8)
    whole = rows_of(layer.run(range(12)), list(range(B)))
    for cut in CUTS:
        assert_equal(layer.run(range(B), cut), whole)


@dtypes
@pytest.mark.parametrize("H", [33, 300])  # sums of one part, and of two
@pytest.mark.parametrize("B", [1, 2, 3])
def test_single_steps_of_few_rows_in_training_have_the_bits_of_a_sequence(dtype, H, B):
    layer = Layer(H, dtype)
    h, c = layer.h0[:B], layer.c0[:B]
    fixed = [*layer.weights, h, c, None, None, None, False]
    whole = ops.lstm_forward(layer.x[:12, :B], *fixed, 2)
    for t in range(12):  # in_place=False: what training asks for
        y, h, c, gates, cells = ops.lstm_forward(
            layer.x[t : t + 1, :B], *fixed[:5], h, c, *fixed[7:], 2
        )
        for found, all_steps in zip((y, gates, cells), (whole[0], whole[3], whole[4]), strict=True):
            assert same_bits(found[0], all_steps[t])
    assert same_bits(h, whole[1]) and same_bits(c, whole[2])


@dtypes
@pytest.mark.parametrize(("layers", "proj"), [(2, 0), (3, 0), (5, 0), (3, 7)])
def test_layers_side_by_side_have_the_bits_of_one_after_the_other(dtype, layers, proj, threads):
    torch.manual_seed(6)
    lstm = StatefulLSTM(5, 24, layers, proj_size=proj, dtype=dtype).eval()
    x, reset = torch.randn(517, 1, 5).to(dtype), torch.rand(517, 1) < 0.02
    runs = []
    for count in (1, 2, 3, 7):
        threads(count)
        for options in ({}, {"reset_mask": reset}):
            lstm.reset_state()
            with torch.no_grad():
                lstm(x[:100])  # a state to begin from
                y, (h, c) = lstm(x, **options)
            runs.append((y, h, c, *lstm.state.read()))
    for k, run in enumerate(runs):
        for found, alone in zip(run, runs[k % 2], strict=True):
            assert same_bits(found, alone)
    lstm.reset_state()
    with torch.no_grad():  # and of the same in other pieces
        lstm(x[:100])
        pieces = torch.cat([lstm(piece)[0] for piece in x.split([70, 300, 147])])
    assert same_bits(pieces, runs[0][0]) and not same_bits(runs[0][0], runs[1][0])


def check_threads():
    """By any number of threads, whose parts of the rows may be of different sizes."""
    for dtype in DTYPES:
        layer = Layer(100, dtype, rows=40)
        torch.set_num_threads(1)
        whole = layer.run(range(40), save=2)
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            for B in (5, 13, 19, 40):
                assert_equal(layer.run(range(B), save=2), rows_of(whole, list(range(B))))


def in_a_process(call, **env):
    """What it prints, with these environment variables, which are read once per process."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", f"import test_invariance as t\n{call}"],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout.split()


def test_where_packing_is_asked_for_any_number_of_rows_has_these_bits():
    pack = {"STATEFUL_LSTM_PACK": "always"}
    told = in_a_process("t.check_all_packed([1, 2, 3, 4, 5])", **pack)
    assert len(set(told)) == 12
    for split in ("rows", "units"):
        call = "t.torch.set_num_threads(2); t.print_digests([4])"
        assert in_a_process(call, STATEFUL_LSTM_SPLIT=split, **pack) == told


def test_packed_rows_by_any_number_of_threads():
    # In a process of its own, as memory that is written past its end may end the process.
    in_a_process("t.check_threads()")


# ---- few rows, whose weights are read where they lie ---------------------------------------------


def assert_near(found, packed, dtype):
    close = (
        {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    )
    for name in packed:
        torch.testing.assert_close(found[name], packed[name], **close)


def check_rows_in_place(dtype, H, form):
    layer = Layer(H, dtype, T=16, **form)
    whole = layer.run(range(4), save=2)
    assert_near(whole, rows_of(layer.run(range(12), save=2), list(range(4))), dtype)
    for B in (1, 2, 3, 4):
        rows = list(range(4 - B, 4))[::-1]
        for cut in ((), (1,), (5, 10), tuple(range(1, 16))):
            assert_equal(layer.run(rows, cut, save=2), rows_of(whole, rows))


def check_steps_in_place(dtype, H):
    layer = Layer(H, dtype, T=64)
    y = layer.run([0])["y"]
    for T in range(1, 65):
        layer.T = T
        assert same_bits(layer.run([0])["y"], y[:T])


def check_controls_in_place(dtype):
    layer = Layer(33, dtype, T=16)
    lengths, free = torch.tensor([16, 3, 0, 7]), layer.run(range(4), save=2)
    reset = layer.reset.clone()
    reset[:, 0] = False
    found = layer.run(range(4), save=2, lengths=lengths, reset=reset)
    assert_equal(rows_of(found, [0]), rows_of(free, [0]))
    controls = {"reset": reset, "mask": layer.mask, "lengths": torch.cat([lengths] * 3)}
    packed = layer.run(range(12), save=2, **controls)
    assert_near(layer.run(range(4), save=2, **controls), rows_of(packed, list(range(4))), dtype)
    layer.x[:, 1:] = float("nan")
    assert_equal(rows_of(layer.run(range(4), save=2), [0]), rows_of(free, [0]))


def way_of(layer, rows):
    """How rows of a layer are computed: packed or in place, told from the bits of the first one."""
    packed = layer.run(range(12))["c_n"][:1]
    return "packed" if same_bits(layer.run(range(rows))["c_n"][:1], packed) else "in_place"


def check_in_place(dtype):
    """Small layers, whose rows are read in place only where nothing may be packed."""
    for H in SIZES:
        for form in (FORMS["plain"], FORMS["no_bias"], FORMS["reverse"]):
            check_rows_in_place(dtype, H, form)
    for H in (7, 33):
        check_steps_in_place(dtype, H)
    check_controls_in_place(dtype)
    print(way_of(Layer(33, dtype, T=16), rows=4))


@dtypes
def test_rows_in_place_are_the_same_in_every_batch_and_cut(dtype):
    told = in_a_process(f"t.check_in_place(t.{dtype})", STATEFUL_LSTM_PACK="never")
    can = dtype != torch.bfloat16 or ops.cpu_capability() in ("avx512bf16", "pairs")
    assert told == ["in_place" if can else "packed"]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("H", "most"), [(32, 0), (64, 2), (100, 6), (128, 11), (192, 24), (256, 40), (700, 60)]
)
def test_the_smaller_a_layer_the_fewer_steps_are_read_in_place(H, most, rows):
    if most >= rows:
        layer = Layer(H, torch.float32, T=most // rows)
        assert way_of(layer, rows) == "in_place"
    layer = Layer(H, torch.float32, T=most // rows + 1)
    assert way_of(layer, rows) == "packed"


def test_another_word_about_packing_is_refused():
    call = """with t.pytest.raises(RuntimeError, match="must be always or never, got often"):
        t.Layer(7, t.torch.float32).run([0])"""
    in_a_process(call, STATEFUL_LSTM_PACK="often")


def test_weights_too_large_for_the_cache_are_read_in_place_for_any_number_of_steps(threads):
    layer = Layer(736, torch.float32, T=66)
    threads(1)
    whole = layer.run(range(4))
    for count in (1, 2, 3):
        threads(count)
        for B, cut in ((1, ()), (1, (20,)), (3, (7, 33)), (4, ())):
            assert_equal(layer.run(range(B), cut), rows_of(whole, list(range(B))))


def test_the_ways_of_computing_differ_in_the_last_bits():
    # Else the tests above could not fail where one way is taken for another.
    layer = Layer(200, torch.float32, T=6)
    packed, in_place = layer.run(range(12))["y"][:, :4], layer.run(range(4))["y"]
    assert not same_bits(packed, in_place)
    torch.testing.assert_close(packed, in_place, rtol=1e-4, atol=1e-5)
    steps = Steps(33, torch.float32, rows=5)
    with torch.no_grad():
        whole, _ = steps.lstm(steps.x, (steps.h0, steps.c0))
    assert not same_bits(whole, steps.y)
    torch.testing.assert_close(whole, steps.y, rtol=1e-4, atol=1e-5)


# ---- training ------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
@pytest.mark.parametrize("config", [{}, {"bidirectional": True}, {"proj_size": 5}], ids=str)
@pytest.mark.parametrize("shape", [(80, 1), (20, 4), (6, 5), (40, 33)], ids=str)
def test_training_gives_the_outputs_of_inference(dtype, recompute, config, shape):
    # Shorter inference reads the weights in place; training packs them always.
    torch.manual_seed(6)
    lstm = StatefulLSTM(5, 33, 2, dtype=dtype, stateful=False, recompute=recompute, **config)
    x = noise(*shape, 5, dtype=dtype)
    y, (h, c) = lstm(x)
    with torch.no_grad():
        expected, hc = lstm(x)
    assert y.requires_grad
    assert_equal({"y": y, "h": h, "c": c}, {"y": expected, "h": hc[0], "c": hc[1]})


@pytest.mark.parametrize("shape", [(3000, 1), (1100, 4), (600, 5)], ids=str)
def test_training_in_ranges_gives_the_outputs_of_inference(shape):
    lstm = StatefulLSTM(5, 100, dtype=torch.float32, stateful=False)
    x = noise(*shape, 5, dtype=torch.float32)
    with torch.no_grad():
        expected = lstm(x)[0]
    assert same_bits(lstm(x)[0], expected)


def backward(layer, rows, lengths=None, reset=None, mask=None):
    """grad_gates, grad_h0, grad_c0 (and grad_hidden) of some rows."""
    rows = list(rows)
    gates, cells = layer.saved["gates"][:, rows].contiguous(), layer.saved["cells"][:, rows]
    names = ["grad_gates", "grad_h0", "grad_c0", "grad_hidden"]
    outs = ops.lstm_backward(
        layer.grads[0][:, rows],
        layer.grads[1][rows],
        layer.grads[2][rows],
        gates,
        cells.contiguous(),
        layer.weights[1],
        layer.weights[4],
        layer.c0[rows],
        None if reset is None else reset[:, rows],
        None if lengths is None else lengths[rows],
        None if mask is None else mask[rows],
        layer.reverse,
    )
    return dict(zip(names, outs, strict=True))


def with_gradients(layer, **controls):
    layer.saved = layer.run(range(layer.rows), save=2, **controls)
    like = (layer.saved["y"], layer.h0, layer.c0)
    layer.grads = [noise(*t.shape, seed=20 + k, dtype=t.dtype) for k, t in enumerate(like)]
    return layer


@dtypes
@sizes
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients_of_a_row_are_the_same_in_every_batch(dtype, H, form):
    layer = with_gradients(Layer(H, dtype, **(form if form.get("proj", 0) < H else {})))
    whole = backward(layer, range(12))
    assert whole["grad_gates"].any()
    for B in (1, 2, 3, 4, 5, 7, 11):
        rows = list(range(12 - B, 12))[::-1]
        assert_equal(backward(layer, rows), rows_of(whole, rows))


@dtypes
def test_gradients_of_a_row_do_not_notice_others(dtype):
    lengths = torch.tensor([24, 0, 3, 17, 24, 1, 9, 24, 23, 24, 5, 24])
    layer = Layer(33, dtype)
    controls = {"lengths": lengths, "reset": layer.reset, "mask": layer.mask}
    whole = backward(with_gradients(layer, **controls), range(12), **controls)
    for b in range(12):
        assert_equal(backward(layer, [b], **controls), rows_of(whole, [b]))
    for t in (layer.saved["gates"], layer.saved["cells"], layer.grads[0]):
        t[:, 3] = float("nan")
    rows = [b for b in range(12) if b != 3]
    assert_equal(rows_of(backward(layer, range(12), **controls), rows), rows_of(whole, rows))


@dtypes
def test_gradients_by_any_number_of_threads(dtype, threads):
    layer = with_gradients(Layer(100, dtype, rows=40))
    threads(1)
    whole = backward(layer, range(40))
    for count in (2, 3, 7):
        threads(count)
        for B in (1, 5, 13, 40):
            assert_equal(backward(layer, range(B)), rows_of(whole, list(range(B))))
