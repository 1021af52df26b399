"""Every choice of `recompute` gives the same gradients, and keeps the memory it promises."""

import pytest
import torch
from comparisons import (
    DTYPES,
    MARKS,
    assert_close,
    random_hx,
    tolerance,
)
from reference_support import (
    CLOSE,
    IMPLEMENTATIONS,
    B,
    H,
    I,
    build,
    compute,
    configs,
    controls,
    cpu,
    shape_of,
)
from torch import nn

import stateful_lstm
from stateful_lstm import reference

pytestmark = MARKS


@configs
@controls
@pytest.mark.parametrize("recompute", ["gates", "segments", "auto"])
def test_recompute_gives_the_same_gradients(config, control, recompute):
    net, x, hx = build(**config)
    truth = compute(cpu, net, x, hx, **config, **control)
    got = compute(cpu, net, x, hx, **config, **control, recompute=recompute)
    assert_close(got, truth, CLOSE)


@pytest.fixture(params=[1, 3], ids=["ranges of 1 step", "ranges of 3 steps"])
def short_ranges(request, monkeypatch):
    """Calls large enough to be worked on range by range would take too long here."""
    monkeypatch.setattr("stateful_lstm.backend.ranges.RANGE_ROWS", request.param * B)
    monkeypatch.setattr("stateful_lstm.backend.ranges._RANGE_BYTES", 1)


@controls
@configs
@pytest.mark.parametrize("recompute", ["none", "gates"])
@pytest.mark.usefixtures("short_ranges")
def test_ranges_of_steps_give_the_same_gradients(config, control, recompute):
    net, x, hx = build(**config)
    truth = compute(reference.lstm, net, x, hx, **config, **control)
    got = compute(cpu, net, x, hx, **config, **control, recompute=recompute)
    assert_close(got, truth, CLOSE)
    with torch.no_grad():
        y, (h_n, c_n) = cpu(x, hx, list(net.parameters()), **config, **control)
    values = {"output": y, "h_n": h_n, "c_n": c_n}
    assert_close(values, {name: truth[name] for name in values}, CLOSE)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("recompute", ["gates", "segments", "auto"])
def test_recompute_over_lengths_and_dtypes(steps, dtype, recompute):
    net = nn.LSTM(I, H, 2, bidirectional=True, dtype=dtype)
    x, hx = torch.randn(steps, B, I).to(dtype), random_hx(net, B)
    control = {
        "reset_mask": torch.rand(steps, B) < 0.2,
        "lengths": torch.randint(0, steps + 1, (B,)),
    }
    truth = compute(cpu, net, x, hx, **shape_of(net), **control)
    got = compute(cpu, net, x, hx, **shape_of(net), **control, recompute=recompute)
    assert_close(got, truth, tolerance(dtype, 2 * min(steps, 10), 4 * H + steps * B))


@pytest.mark.parametrize("recompute", ["none", "gates", "segments", "auto"])
def test_recompute_draws_the_same_dropout(recompute):
    net, x, hx = build(num_layers=2, bidirectional=True)
    keywords = shape_of(net) | {"training": True, "dropout": 0.3, "recurrent_dropout": 0.4}
    torch.manual_seed(1)
    truth = compute(reference.lstm, net, x, hx, **keywords)
    torch.manual_seed(1)
    got = compute(cpu, net, x, hx, **keywords, recompute=recompute)
    assert_close(got, truth, CLOSE)


def kept_bytes(net, x, recompute):
    """The bytes that one call keeps for its backward, beside what it was given."""
    given = {t.data_ptr() for t in (x, *net.parameters())}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.data_ptr(): t.numel() * t.element_size()}) or t, lambda t: t
    ):
        cpu(x, None, list(net.parameters()), recompute=recompute)
    return sum(size for where, size in kept.items() if where not in given)


def test_recompute_keeps_less():
    net, x = nn.LSTM(I, 8), torch.randn(100, B, I)
    every_value = 4 * B * 100 * 8  # bytes of h alone, which is the output, or of c
    assert kept_bytes(net, x, "none") >= 6 * every_value
    assert 2 * every_value <= kept_bytes(net, x, "gates") < 2.2 * every_value
    assert kept_bytes(net, x, "segments") < 1.4 * every_value


def test_auto_keeps_what_the_budget_allows():
    net, x = nn.LSTM(I, 8), torch.randn(100, B, I)
    plans = {name: kept_bytes(net, x, name) for name in ("none", "gates", "segments")}
    try:
        given = 2 * 4 * B * 8  # bytes of h0 and c0, which are kept, too
        for budget, plan in (
            (10**6, "none"),
            (plans["none"] - given, "none"),
            (plans["none"] - given - 1, "gates"),
            (plans["gates"] - given, "gates"),
            (plans["gates"] - given - 1, "segments"),
            (100, "segments"),
        ):
            stateful_lstm.set_memory_budget(budget)
            assert kept_bytes(net, x, "auto") == plans[plan], plan
    finally:
        stateful_lstm.set_memory_budget(1 << 30)


@pytest.mark.parametrize("name", ["backend=reference", "backend=cpu"])
def test_an_unknown_recompute_is_refused(name):
    net, x, hx = build()
    with pytest.raises((ValueError, TypeError), match="recompute"):
        IMPLEMENTATIONS[name](x, hx, list(net.parameters()), recompute="everything")
