"""Sequences with packed weights: a row's bits are the same in every batch and in every cut."""

import hashlib

import pytest
import torch
from invariance_support import (
    CUTS,
    DTYPES,
    FORMS,
    MARKS,
    Layer,
    assert_equal,
    dtypes,
    in_a_process,
    rows_of,
    sizes,
)
from state_support import noise, same_bits

from stateful_lstm import StatefulLSTM
from stateful_lstm.backend import operators

pytestmark = MARKS
HERE = "test_invariance_packed"


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
    whole = operators.lstm_forward(layer.x[:12, :B], *fixed, 2)
    for t in range(12):  # in_place=False: what training asks for
        y, h, c, gates, cells = operators.lstm_forward(
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


def test_where_packing_is_asked_for_any_number_of_rows_has_these_bits():
    pack = {"STATEFUL_LSTM_PACK": "always"}
    told = in_a_process(HERE, "t.check_all_packed([1, 2, 3, 4, 5])", **pack)
    assert len(set(told)) == 12
    for split in ("rows", "units"):
        call = "t.torch.set_num_threads(2); t.print_digests([4])"
        assert in_a_process(HERE, call, STATEFUL_LSTM_SPLIT=split, **pack) == told


def test_packed_rows_by_any_number_of_threads():
    # In a process of its own, as memory that is written past its end may end the process.
    in_a_process(HERE, "t.check_threads()")
