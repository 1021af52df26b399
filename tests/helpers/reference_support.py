"""The three implementations of the function, and their calls with resets and lengths."""

import pytest
import torch
from comparisons import (
    random_hx,
    results,
    settings,
    tolerance,
)
from torch import nn

import stateful_lstm
from stateful_lstm import reference


def cpu(*args, **kwargs):
    return stateful_lstm.lstm(*args, backend="cpu", **kwargs)


def through_the_function(*args, **kwargs):
    return stateful_lstm.lstm(*args, backend="reference", **kwargs)


IMPLEMENTATIONS = {
    "reference.lstm": reference.lstm,
    "backend=reference": through_the_function,
    "backend=cpu": cpu,
}
implementations = pytest.mark.parametrize(
    "lstm", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys()
)

CONFIGS = {
    "plain": {},
    "no-bias": {"bias": False},
    "3-layers": {"num_layers": 3},
    "both-ways": {"bidirectional": True},
    "projected": {"proj_size": 2},
    "all": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

T, B, I, H = 6, 4, 3, 5  # noqa: E741
RESETS = torch.tensor(
    [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
        [1, 0, 0, 1],
        [0, 0, 1, 1],
    ],
    dtype=torch.bool,
)
LENGTHS = torch.tensor([6, 0, 3, 4])  # row 2 is reset on its last step and beyond its end
CONTROLS = {
    "nothing": {},
    "resets": {"reset_mask": RESETS},
    "lengths": {"lengths": LENGTHS},
    "resets-and-lengths": {"reset_mask": RESETS, "lengths": LENGTHS},
}
controls = pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS.keys())
CLOSE = tolerance(torch.float64, 3 * T, 4 * H + T * B)


def build(**config):
    """A float64 nn.LSTM, a random input and a random state."""
    net = nn.LSTM(I, H, dtype=torch.float64, **config)
    return net, torch.randn(T, B, I, dtype=torch.float64), random_hx(net, B)


def compute(lstm, net, x, hx, **control):
    """Outputs and gradients of an implementation with the weights of an nn.LSTM."""
    weights = dict(net.named_parameters())
    call = lambda x, hx: lstm(x, hx, list(weights.values()), **control)  # noqa: E731
    return results(call, x, hx, weights)


def shape_of(net):
    """The settings of a net that the oracle supports too."""
    keep = ("num_layers", "bias", "bidirectional", "proj_size")
    return {name: value for name, value in settings(net).items() if name in keep}
