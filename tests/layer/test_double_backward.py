"""First, second and third derivatives against finite differences and the oracle."""

import copy

import pytest
import torch
from comparisons import (
    MARKS,
    assert_close,
    cotangent,
    oracle,
    random_hx,
    tolerance,
)
from reference_support import (
    CLOSE,
    CONTROLS,
    B,
    H,
    I,
    T,
    build,
    cpu,
    implementations,
    shape_of,
)
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from stateful_lstm import reference

pytestmark = MARKS


SMALL = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.bool)
FEATURES = {
    "plain": {},
    "no-bias": {"bias": False},
    "2-layers": {"num_layers": 2},
    "both-ways": {"bidirectional": True},
    "projected": {"proj_size": 1},
    "resets": {"reset_mask": SMALL},
    "lengths": {"lengths": torch.tensor([0, 3])},
    "recurrent-dropout": {"training": True, "recurrent_dropout": 0.4},
    "all": {
        "num_layers": 2,
        "bidirectional": True,
        "proj_size": 1,
        "reset_mask": SMALL,
        "lengths": torch.tensor([4, 2]),
        "training": True,
        "dropout": 0.3,
        "recurrent_dropout": 0.3,
    },
}
features = pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())


def as_function(lstm, feature, **extras):
    """lstm as a function of tensors alone, and a point to differentiate it at."""
    names = ("num_layers", "bias", "bidirectional", "proj_size")
    net = nn.LSTM(2, 2, dtype=torch.float64, **{k: feature[k] for k in names if k in feature})
    x, hx = torch.randn(4, 2, 2, dtype=torch.float64), random_hx(net, 2)

    def function(x, h, c, *weights):
        torch.manual_seed(9)
        y, (h_n, c_n) = lstm(x, (h, c), list(weights), **feature, **extras)
        return y, h_n, c_n

    return function, tuple(t.detach().requires_grad_() for t in (x, *hx, *net.parameters()))


@pytest.mark.sampled
@features
@implementations
def test_gradcheck(lstm, feature):
    function, point = as_function(lstm, feature)
    assert gradcheck(function, point, fast_mode=feature is FEATURES["all"])


@pytest.mark.sampled
@features
@implementations
def test_gradgradcheck(lstm, feature):
    function, point = as_function(lstm, feature)
    assert gradgradcheck(function, point, fast_mode=True)


@features
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
def test_a_gradient_with_a_graph_of_its_own_is_the_same_gradient(feature, recompute):
    function, point = as_function(cpu, feature, recompute=recompute)
    outputs = function(*point)
    seeds = [cotangent(t, k) for k, t in enumerate(outputs)]
    plain, graph = (
        torch.autograd.grad(outputs, point, seeds, retain_graph=True, create_graph=create)
        for create in (False, True)
    )
    assert all(g.requires_grad for g in graph)
    assert_close(dict(enumerate(graph)), dict(enumerate(plain)), CLOSE)


@pytest.mark.sampled
@pytest.mark.parametrize("feature", ["plain", "all"])
@pytest.mark.parametrize("recompute", ["gates", "segments", "auto"])
def test_gradgradcheck_with_recompute(feature, recompute):
    function, point = as_function(cpu, FEATURES[feature], recompute=recompute)
    assert gradgradcheck(function, point, fast_mode=True)


@implementations
def test_third_derivatives(lstm):
    function, point = as_function(lstm, FEATURES["resets"])

    def gradient(*point):
        y, h, c = function(*point)
        return torch.autograd.grad(y.pow(3).sum() + h.sum() + c.sum(), point, create_graph=True)

    assert gradgradcheck(gradient, point, fast_mode=True)


@implementations
def test_double_backward_equals_the_oracles(lstm):
    net, x, hx = build(num_layers=2, bidirectional=True, proj_size=2)
    control = shape_of(net) | CONTROLS["resets-and-lengths"]
    leaves = [x.requires_grad_(), *(t.requires_grad_() for t in hx), *net.parameters()]

    def penalty(lstm):
        y, (h, c) = lstm(x, hx, list(net.parameters()), **control)
        loss = y.pow(2).sum() + h.pow(3).sum() + c.sin().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)
        return {str(k): g for k, g in enumerate(second)}

    assert_close(penalty(lstm), penalty(oracle), 10 * CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
def test_double_backward_in_lower_precision(dtype, recompute):
    net = nn.LSTM(I, H, 2, bidirectional=True, dtype=dtype)
    x, hx = torch.randn(T, B, I).to(dtype), random_hx(net, B)
    exact = copy.deepcopy(net).double()

    def penalty(net, x, hx, lstm, **extras):
        leaves = [t.detach().requires_grad_() for t in (x, *hx)]
        weights = list(net.parameters())
        y, _ = lstm(leaves[0], tuple(leaves[1:]), weights, **shape_of(net), **extras)
        first = torch.autograd.grad(y.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), weights[:2])
        return dict(enumerate(second))

    truth = penalty(exact, x.double(), tuple(t.double() for t in hx), reference.lstm)
    got = penalty(net, x, hx, cpu, recompute=recompute)
    assert_close(got, truth, 2 * tolerance(dtype, 2 * T, 4 * H + T * B))


@implementations
def test_a_gradient_penalty_reaches_the_weights(lstm):
    net, x, hx = build()
    x.requires_grad_()
    y, _ = lstm(x, hx, list(net.parameters()))
    (gx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    gx.pow(2).sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.count_nonzero(), name
