"""The gates that recompute="gates" rebuilds on the CPU: two from products, two from c and h."""

from __future__ import annotations

import pytest
import torch
from operator_support import BAD_FORWARD, DTYPES, INPUTS, B, H, acc, forward_args

import stateful_lstm
from stateful_lstm.backend import operators

# Several blocks of rows, and units that fill some vectors and half of one, whatever their width.
STEPS, ROWS, WIDE_IN, WIDE = 45, 7, 9, 37
GATES = ("i", "f", "g", "o")
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def wide_args(dtype, projection=False, steered=False, reverse=False, hidden=WIDE):
    """A call of lstm_forward that keeps all, large enough for every way there is."""
    torch.manual_seed(0)
    p, wide = (21 if projection else hidden), acc(dtype)
    sizes = [(4 * hidden, WIDE_IN), (4 * hidden, p), (4 * hidden,), (4 * hidden,)]
    lengths = torch.randint(0, STEPS + 1, (ROWS,))
    lengths[:2] = torch.tensor([STEPS, 0])
    return [
        torch.randn(STEPS, ROWS, WIDE_IN).to(dtype),
        *(torch.randn(*n).to(dtype) / 3 for n in sizes),
        torch.randn(p, hidden).to(dtype) / 6 if projection else None,
        torch.randn(ROWS, p).to(dtype),
        torch.randn(ROWS, hidden).to(wide),
        torch.rand(STEPS, ROWS) < 0.2 if steered else None,
        lengths if steered else None,
        (2 * torch.rand(ROWS, p)).to(dtype) if steered else None,
        reverse,
        2,
    ]


def kept_and_recomputed(args):
    y, _, _, gates, cells = operators.lstm_forward(*args)
    recomputed = operators.lstm_gates(*args[:-1], y, cells)
    assert recomputed.dtype == gates.dtype and recomputed.shape == gates.shape
    return gates, recomputed


@dtypes
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [1, WIDE, 64])
def test_equals_what_forward_kept(dtype, projection, steered, reverse, hidden):
    gates, recomputed = kept_and_recomputed(wide_args(dtype, projection, steered, reverse, hidden))
    found = [dict(zip(GATES, t.double().chunk(4, -1), strict=True)) for t in (gates, recomputed)]
    kept, made = found
    # i, f and o as they are, and g beside i: alone it is not known where i is next to nothing.
    rounding = 60 * torch.finfo(acc(dtype)).eps + (2**-8 if dtype == torch.bfloat16 else 0)
    for name in ("i", "f", "o"):
        assert (kept[name] - made[name]).abs().max() <= 2 * rounding, name
    product = [gate["i"] * gate["g"] for gate in found]
    assert (product[0] - product[1]).abs().max() <= 2 * rounding
    assert (kept["g"] - made["g"]).abs().median() <= 2 * rounding
    if steered:
        over = torch.arange(STEPS).unsqueeze(1) >= args_lengths(dtype)
        assert not recomputed[over].any(), "zeros where a row has ended"


def args_lengths(dtype):
    return wide_args(dtype, steered=True)[9]


@dtypes
def test_two_of_the_gates_do_come_from_the_cells(dtype):
    """Other cells give other gates g and o, and the same i and f."""
    args = wide_args(dtype, hidden=64)
    y, _, _, _, cells = operators.lstm_forward(*args)
    true, other = (
        operators.lstm_gates(*args[:-1], y, c).chunk(4, -1) for c in (cells, 0.9 * cells)
    )
    assert torch.equal(true[0], other[0]) and torch.equal(true[1], other[1])
    assert (true[2] != other[2]).float().mean() > 0.5 and (true[3] != other[3]).any()


# ---- where cells do not tell -------------------------------------------------------------------


def biased(i=0.0, f=0.0, g=0.0, o=0.0, scale=1.0, inputs=1.0, cells=0.0):
    """What a case does to a layer's biases, weights, inputs and first cells."""
    return {"bias": (i, f, g, o), "scale": scale, "inputs": inputs, "cells": cells}


EXTREMES = {
    "as they come": biased(),
    "cells that grow": biased(i=9, f=20, g=3),
    "cells that grow slowly": biased(i=0, f=9, g=1),
    "cells of a million": biased(f=20, cells=1e6),
    "tiny cells": biased(scale=1e-3, inputs=1e-34),
    "small cells": biased(g=0, scale=1e-3, inputs=1e-4),
    "input gates all but closed": biased(i=-12),
    "input gates closed": biased(i=-60),
    "input gates at the end of the range": biased(i=-300),
    "forget gates closed": biased(f=-60),
    "output gates closed": biased(o=-60),
    "output gates at the end of the range": biased(o=-300),
    "all gates open": biased(i=20, f=20, o=20),
    "saturated": biased(scale=40.0),
}


def extreme(dtype, case, recompute, steps=60):
    """The gradients of a layer with such gates, and the cells at its end."""
    torch.manual_seed(3)
    net = torch.nn.LSTM(WIDE_IN, WIDE).double()
    x = torch.randn(steps, ROWS, WIDE_IN).double() * case["inputs"]
    weight = torch.randn(steps, ROWS, WIDE).to(dtype)
    params = []
    for name, p in net.named_parameters():
        value = p.detach() * case["scale"]
        if name.startswith("bias_ih"):
            value = torch.tensor(case["bias"]).double().repeat_interleave(WIDE)
        if name.startswith("bias_hh"):
            value = 0 * value
        params.append(value.bfloat16().to(dtype).requires_grad_())
    x = x.bfloat16().to(dtype).requires_grad_()
    hx = [torch.full((1, ROWS, WIDE), value, dtype=dtype) for value in (0.0, case["cells"])]
    y, (_, c) = stateful_lstm.lstm(x, tuple(hx), params, recompute=recompute)
    # Large cells have no gradient from h, but they do from later cells.
    loss = (y * weight).sum() + (c * weight[0]).sum()
    return torch.autograd.grad(loss, [x, *params]), c


@pytest.mark.unsanitized("its bits or its accuracy are those of another compilation")
@dtypes
@pytest.mark.parametrize("case", EXTREMES.values(), ids=EXTREMES.keys())
def test_gradients_are_as_near_to_the_truth_as_those_of_none(dtype, case):
    truth, c = extreme(torch.float64, case, "none")
    assert torch.isfinite(c).all()
    for want, none, gates in zip(
        truth, extreme(dtype, case, "none")[0], extreme(dtype, case, "gates")[0], strict=True
    ):
        none, gates = none.double(), gates.double()
        roundings = {torch.float64: 100, torch.float32: 20, torch.bfloat16: 2}[dtype]
        floor = roundings * torch.finfo(dtype).eps * want.norm()
        assert (gates - want).norm() <= 2 * (none - want).norm() + floor


def test_the_cases_do_reach_beyond():
    cells = {name: extreme(torch.float64, case, "none")[1].abs() for name, case in EXTREMES.items()}
    assert cells["cells of a million"].min() > 1e5
    assert cells["cells that grow"].min() > 16 and cells["as they come"].max() < 16
    assert 0 < cells["tiny cells"].max() < 2.0**-60 < cells["small cells"].median() < 1e-3


@dtypes
@pytest.mark.parametrize("quiet", [STEPS, 5])
def test_cells_that_are_zero(dtype, quiet):
    """Inputs and biases of zero from the start on: o cannot be told from h, which is zero, too."""
    args = wide_args(dtype, hidden=64)
    args[0][:quiet] = 0
    for k in (3, 4, 6, 7):
        args[k] = torch.zeros_like(args[k])
    gates, recomputed = kept_and_recomputed(args)
    assert not operators.lstm_forward(*args)[4][:quiet].any()
    torch.testing.assert_close(recomputed[:quiet], gates[:quiet], rtol=0, atol=0)
    assert (recomputed[:quiet].chunk(4, -1)[3] == 0.5).all()


@dtypes
def test_nan_stays_where_it_is(dtype):
    args = wide_args(dtype, hidden=64)
    args[0][20, 3] = float("nan")
    gates, recomputed = kept_and_recomputed(args)
    assert gates[20:, 3].isnan().all()
    assert torch.equal(gates.isnan(), recomputed.isnan())


# ---- the operator ------------------------------------------------------------------------------


@dtypes
def test_bits_are_the_same_in_every_run_and_by_any_number_of_threads(dtype):
    args = wide_args(dtype, steered=True, hidden=64)
    before = torch.get_num_threads()
    runs = []
    for threads in (1, 2, 3, 7, 1):
        torch.set_num_threads(threads)
        runs.append(kept_and_recomputed(args)[1])
    torch.set_num_threads(before)
    assert all(torch.equal(run, runs[0]) for run in runs[1:])


@dtypes
def test_without_a_step_or_a_row_there_are_none(dtype):
    args = wide_args(dtype)
    args[0] = args[0][:0]
    assert kept_and_recomputed(args)[1].shape == (0, ROWS, 4 * WIDE)
    args = wide_args(dtype)
    args[0], args[6], args[7] = args[0][:, :0], args[6][:0], args[7][:0]
    assert kept_and_recomputed(args)[1].shape == (STEPS, 0, 4 * WIDE)


BAD = [(place, value, text) for place, value, text in BAD_FORWARD if place < 12]


@pytest.mark.parametrize(("place", "value", "message"), BAD, ids=range(len(BAD)))
def test_refuses(place, value, message):
    args = forward_args(torch.float32, False, False, False)
    y, _, _, _, cells = operators.lstm_forward(*args)
    args[place] = value
    with pytest.raises(RuntimeError, match=message):
        operators.lstm_gates(*args[:-1], y, cells)


def test_refuses_other_outputs():
    args = forward_args(torch.float32, False, False, False)
    y, _, _, _, cells = operators.lstm_forward(*args)
    with pytest.raises(RuntimeError, match=r"y must have shape \(4, 3, 6\), got \(3, 3, 6\)"):
        operators.lstm_gates(*args[:-1], y[1:], cells)
    with pytest.raises(RuntimeError, match="cells has the wrong dtype"):
        operators.lstm_gates(*args[:-1], y, cells.double())


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@dtypes
@pytest.mark.parametrize("projection", [False, True])
def test_opcheck(dtype, projection):
    args = forward_args(dtype, projection, steered=True, reverse=False)
    y, _, _, _, cells = operators.lstm_forward(*args)
    torch.library.opcheck(torch.ops.stateful_lstm.lstm_gates, [*args[:-1], y, cells])
    assert args[0].shape[1:] == (B, INPUTS) and cells.size(2) == H
