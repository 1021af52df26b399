"""`lstm_gradients`, the CPU's operator for the whole backward pass, against plain products."""

from __future__ import annotations

import os
import queue
import threading

import pytest
import torch
from comparisons import assert_close
from operator_support import (
    BAD_FORWARD,
    DTYPES,
    INPUTS,
    B,
    H,
    P,
    T,
    acc,
    forward_args,
    gate_gradients,
)

from stateful_lstm.backend import operators
from stateful_lstm.backend.autograd import compiled_layer
from stateful_lstm.backend.layer_stack import LayerWeights
from stateful_lstm.backend.weight_gradients import Control, previous_factor

X, IH, HH, BIAS, H0, FINAL = 1, 2, 4, 8, 16, 32
ALL = X + IH + HH + BIAS + H0
NAMES = ("grad_x", "grad_ih", "grad_hh", "grad_bias", "grad_h0", "grad_c0", "grad_hidden")


def arguments(dtype, projection=False, steered=False, reverse=False, wanted=ALL):
    torch.manual_seed(0)
    x, w_ih, w_hh, _, _, w_hr, h0, c0, *control, save = forward_args(
        dtype, projection, steered, reverse
    )
    y, h_n, c_n, gates, cells = operators.lstm_forward(
        x, w_ih, w_hh, None, None, w_hr, h0, c0, *control, save
    )
    grads = [torch.randn_like(t) for t in (y, h_n, c_n)]
    sums = [None] * 3
    return [*grads, gates, cells, x, y, h0, c0, w_ih, w_hh, w_hr, *control, *sums, wanted]


def gradients(args):
    return dict(zip(NAMES, operators.lstm_gradients(*args), strict=True))


def expected(args):
    """From the gradients of the gates, with products in float64."""
    *grads, gates, cells, x, y, h0, c0, w_ih, w_hh, w_hr, reset, lengths, mask, reverse = args[:16]
    control = Control(reset, lengths, mask, reverse)
    d_gates, d_h0, d_c0, d_hidden = gate_gradients(
        tuple(grads), gates, cells, y, h0, c0, w_hh, w_hr, control
    )
    seen = previous_factor(y, h0, control).double().flatten(0, 1)
    d = d_gates.double()
    rows = d.flatten(0, 1)
    return {
        "grad_x": d @ w_ih.double(),
        "grad_ih": rows.T @ x.double().flatten(0, 1),
        "grad_hh": rows.T @ seen,
        "grad_bias": rows.sum(0),
        "grad_h0": d_h0,
        "grad_c0": d_c0,
        "grad_hidden": d_hidden,
    }


def tolerance(dtype, terms):
    """Roundings of so many numbers; bfloat16's are rounded once more, before the products."""
    return terms * torch.finfo(acc(dtype)).eps + (2**-7 if dtype == torch.bfloat16 else 0)


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@dtypes
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_equals_the_recurrence_and_plain_products(dtype, projection, steered, reverse):
    args = arguments(dtype, projection, steered, reverse)
    assert_close(gradients(args), expected(args), tolerance(dtype, 4 * H))


@dtypes
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (1, 1, 70, 5), (1, 3, 64, 64), (5, 4, 130, 40), (300, 3, 17, 33)]
)
def test_sizes_that_fill_no_tile_and_sums_longer_than_one(dtype, sizes):
    steps, rows, inputs, hidden = sizes
    torch.manual_seed(1)
    x = torch.randn(steps, rows, inputs).to(dtype)
    w_ih, w_hh = (torch.randn(4 * hidden, n).to(dtype) / (4 * n) ** 0.5 for n in (inputs, hidden))
    h0, c0 = torch.randn(rows, hidden).to(dtype), torch.randn(rows, hidden).to(acc(dtype))
    control = (None, None, None, False)
    y, _, _, gates, cells = operators.lstm_forward(
        x, w_ih, w_hh, None, None, None, h0, c0, *control, 2
    )
    fixed = [gates, cells, x, y, h0, c0, w_ih, w_hh, None, *control, None, None, None, ALL]
    args = [torch.randn_like(y), None, None, *fixed]
    assert_close(gradients(args), expected(args), tolerance(dtype, steps * rows + 4 * hidden))


@dtypes
def test_sums_of_other_steps_are_added_to(dtype):
    args = arguments(dtype)
    alone = gradients(args)
    before = [torch.randn_like(alone[name]) for name in NAMES[1:4]]
    kept = [t.clone() for t in before]
    args[16:19] = before
    added = gradients(args)
    for old, copy, name in zip(before, kept, NAMES[1:4], strict=True):
        assert torch.equal(old, copy), "it changes no argument"
        torch.testing.assert_close(added[name], alone[name] + old)
    for name in ("grad_x", "grad_h0", "grad_c0"):
        assert torch.equal(added[name], alone[name])


@dtypes
@pytest.mark.parametrize("wanted", range(32))
def test_what_is_not_wanted_is_empty_and_the_rest_the_same(dtype, wanted):
    args = arguments(dtype, steered=True)
    whole, some = gradients(args), gradients([*args[:-1], wanted])
    for bit, name in enumerate(NAMES[:5]):
        if wanted >> bit & 1:
            assert torch.equal(some[name], whole[name]), name
        else:
            assert some[name].numel() == 0, name
    assert torch.equal(some["grad_c0"], whole["grad_c0"])


@dtypes
def test_the_last_sums_come_in_the_dtype_of_the_weights(dtype):
    args = arguments(dtype, wanted=ALL + FINAL)
    final, sums = gradients(args), gradients([*args[:-1], ALL])
    for name in NAMES[1:4]:
        assert final[name].dtype == dtype
        assert torch.equal(final[name], sums[name].to(dtype)), name


@dtypes
def test_without_a_step_or_a_row_there_is_nothing_to_add(dtype):
    args = arguments(dtype)
    for empty in (slice(0, 0), (slice(None), slice(0, 0))):
        none = [*args]
        for k in (0, 3, 4, 5, 6):
            none[k] = args[k][empty]
        if none[0].size(1) == 0:
            for k in (1, 2, 7, 8):
                none[k] = args[k][:0]
        found = gradients(none)
        assert not any(found[name].any() for name in NAMES[1:4])
        if none[0].size(1):
            torch.testing.assert_close(found["grad_h0"], args[1].to(acc(dtype)))
        before = [torch.randn_like(found[name]) for name in NAMES[1:4]]
        none[16:19] = before
        for old, name in zip(before, NAMES[1:4], strict=True):
            assert torch.equal(gradients(none)[name], old)


@dtypes
def test_bits_are_the_same_in_every_run_and_by_any_number_of_threads(dtype):
    torch.manual_seed(2)
    lstm = torch.nn.LSTM(70, 96, dtype=dtype)
    w = [p.detach() for p in lstm.parameters()]
    x, h0, c0 = (torch.randn(*n).to(dtype) for n in ((60, 9, 70), (9, 96), (9, 96)))
    out = operators.lstm_forward(x, *w, None, h0, c0.to(acc(dtype)), None, None, None, False, 2)
    y, _, _, gates, cells = out
    args = [y, None, None, gates, cells, x, y, h0, c0.to(acc(dtype)), w[0], w[1], None]
    args += [None, None, None, False, None, None, None, ALL]
    before = torch.get_num_threads()
    runs = []
    for threads in (1, 2, 3, 7, 1):
        torch.set_num_threads(threads)
        runs.append(gradients(args))
    torch.set_num_threads(before)
    for run in runs[1:]:
        for name in NAMES:
            assert torch.equal(run[name], runs[0][name]), name


def test_nan_behind_a_row_s_end_or_before_a_reset_reaches_no_weight():
    args = arguments(torch.float32, steered=True)
    reset, lengths = args[12], args[13]
    clean = gradients(args)
    reset[0, 0] = True  # so h0 of row 0 counts for nothing
    clean = gradients(args)
    args[7] = args[7].clone()
    args[7][0] = float("nan")
    args[6] = args[6].clone()
    args[6][2:, 2] = float("nan")  # row 2 has ended
    assert lengths[2] == 2
    for name in NAMES[:4]:
        assert torch.equal(gradients(args)[name], clean[name]), name


PLACES = {0: 5, 1: 9, 6: 7, 7: 8, 8: 12, 9: 13, 10: 14}  # of forward's arguments among these
BAD = [(PLACES[place], value, text) for place, value, text in BAD_FORWARD if place in PLACES]


@pytest.mark.parametrize(("place", "value", "message"), BAD, ids=range(len(BAD)))
def test_refuses(place, value, message):
    args = arguments(torch.float32)
    args[place] = value
    with pytest.raises(RuntimeError, match=message):
        operators.lstm_gradients(*args)


def test_refuses_what_only_it_is_asked():
    args = arguments(torch.float32)
    with pytest.raises(RuntimeError, match="wanted must be 0 to 63, got 64"):
        operators.lstm_gradients(*args[:-1], 64)
    args[16] = torch.zeros(4 * H, INPUTS)
    with pytest.raises(
        RuntimeError, match="sums must be given for all gradients that are wanted, or for none"
    ):
        operators.lstm_gradients(*args)
    args[17:19] = torch.zeros(4 * H, H + 1), torch.zeros(4 * H)
    with pytest.raises(RuntimeError, match=r"sum_hh must have shape \(24, 6\), got \(24, 7\)"):
        operators.lstm_gradients(*args)


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.sampled
@dtypes
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("wanted", [ALL, ALL + FINAL, 0])
def test_opcheck(dtype, projection, wanted):
    args = arguments(dtype, projection, steered=True, wanted=wanted)
    torch.library.opcheck(torch.ops.stateful_lstm.lstm_gradients, args)
    assert args[5].shape == (T, B, INPUTS) and args[10].size(1) == (P if projection else H)


def large_gradients(seed):
    """Of a layer so large that they lie in pooled memory."""
    torch.manual_seed(seed)
    x, w = torch.randn(3, 2, 300), [torch.randn(1200, 300) / 17 for _ in range(2)]
    h0 = c0 = torch.zeros(2, 300)
    y, _, _, gates, cells = operators.lstm_forward(
        x, *w, None, None, None, h0, c0, None, None, None, False, 2
    )
    control = (None, None, None, False)
    args = [
        y,
        None,
        None,
        gates,
        cells,
        x,
        y,
        h0,
        c0,
        *w,
        None,
        *control,
        None,
        None,
        None,
        IH + HH,
    ]
    found = gradients(args)
    return found["grad_ih"], found["grad_hh"]


def test_memory_goes_back_to_the_pool_only_when_its_tensor_goes():
    first = large_gradients(1)
    copies, places = [t.clone() for t in first], {t.data_ptr() for t in first}
    second = large_gradients(2)
    assert not places & {t.data_ptr() for t in second}
    part = first[0][5:7]  # a view holds all of it
    expected = part.clone()
    for t, copy in zip(first, copies, strict=True):
        assert torch.equal(t, copy)
    places.remove(first[0].data_ptr())
    del first, t
    later = [large_gradients(3) for _ in range(20)]  # others may have left blocks, too
    assert torch.equal(part, expected)
    if "STATEFUL_LSTM_SANITIZE" not in os.environ:  # where nothing stays, so that it is watched
        assert places <= {t.data_ptr() for each in later for t in each}


def test_pooled_memory_is_given_back_by_any_thread():
    expected = [t.clone() for t in large_gradients(4)]
    held: queue.Queue = queue.Queue()
    wrong = []

    def look():
        while (found := held.get()) is not None:
            wrong.extend(not torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    thread = threading.Thread(target=look)  # in which the tensors go
    thread.start()
    for _ in range(20):
        held.put(large_gradients(4))
    held.put(None)
    thread.join()
    assert len(wrong) == 40 and not any(wrong)


@dtypes
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_run_again_give_the_same_bits_and_gates_made_anew_the_same_but_for_rounding(
    dtype, reverse
):
    torch.manual_seed(5)
    steps, rows, hidden = 40, 30, 33
    x, h0 = torch.randn(steps, rows, 7).to(dtype), torch.randn(rows, hidden).to(dtype)
    c0, lengths = torch.randn(rows, hidden).to(acc(dtype)), torch.randint(0, steps + 1, (rows,))
    inputs = [t.requires_grad_() for t in (x, h0, c0)]
    weights = [torch.randn(4 * hidden, n).to(dtype).div(6).requires_grad_() for n in (7, hidden)]
    biases = [torch.randn(4 * hidden).to(dtype).requires_grad_() for _ in range(2)]
    mask = (torch.rand(rows, hidden) < 0.5).to(dtype) * 2
    control = torch.rand(steps, rows) < 0.1, lengths, mask, reverse
    layer = LayerWeights(*weights, *biases, None)
    grads = {}
    for keep in ("all", "cells", "state"):
        y, h, c = compiled_layer(*inputs[:1], layer, *inputs[1:], *control, keep=keep)
        total = y.float().square().sum() + h.float().sum() + c.float().sum()
        grads[keep] = torch.autograd.grad(total, [*inputs, *weights, *biases])
    # Those of weights are sums over all rows, which ranges of steps add up in another order; and
    # from range to range that of h is rounded to bfloat16.
    for first, second in zip(grads["all"][:3], grads["state"][:3], strict=True):
        assert first.any() and (dtype == torch.bfloat16 or torch.equal(first, second))
    for keep in ("cells", "state"):
        for first, second in zip(grads["all"], grads[keep], strict=True):
            difference = (first.double() - second.double()).norm()
            assert difference <= 20 * torch.finfo(dtype).eps * first.double().norm()
