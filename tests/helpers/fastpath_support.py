"""A spy on the fast path of inference, and a comparison with the regular path."""

import copy

import pytest
import torch
from state_support import (
    by_hand,
    close,
    make,
    noise,
    same_bits,
)
from torch.utils._python_dispatch import TorchDispatchMode

from stateful_lstm.backend import operators

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
needs_fastpath = pytest.mark.skipif(
    operators.fastpath_inference is None,
    reason="no library, or a torch without DLPack's exchange table",
)


class Seen(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Spy:
    """Replaces the C function, and records whether it did the work."""

    def __init__(self, monkeypatch):
        self.step, self.taken, self.monkeypatch = operators.fastpath_inference, False, monkeypatch
        monkeypatch.setattr(operators, "fastpath_inference", self)

    def __call__(self, *args):
        out = self.step(*args)
        self.taken = out is not None
        return out

    def regular_path(self, lstm, x, **options):
        """The same call without the fast path."""
        with self.monkeypatch.context() as patch:
            patch.setattr(operators, "fastpath_inference", None)
            return lstm(x, **options)


def filled(slots=4, **options):
    """A layer with a random state."""
    lstm = make(**options)
    state = lstm.allocate_state(slots)
    state.h.copy_(noise(*state.h.shape, seed=7) / 2)
    state.c.copy_(noise(*state.c.shape, seed=8))
    return lstm


def flat(results):
    y, (h_n, c_n) = results
    return {"y": y, "h_n": h_n, "c_n": c_n}


def assert_quick(spy, lstm, x, mode=torch.no_grad, **options):
    """Checks that the call takes the fast path and has the regular path's bits, state included."""
    twin = copy.deepcopy(lstm)
    with mode():
        found, expected = flat(lstm(x, **options)), flat(spy.regular_path(twin, x, **options))
    assert spy.taken
    for name in expected:
        assert same_bits(found[name], expected[name]), name
    assert same_bits(lstm.state.h, twin.state.h) and same_bits(lstm.state.c, twin.state.c)
    return found


def assert_long(spy, lstm, x, **options):
    """Checks that the call does not take the fast path and has the numbers of nn.LSTM."""
    start, same_x = lstm.state.read(), x.detach().clone()
    y, _ = lstm(x, **options)
    assert not spy.taken
    close(y, by_hand(lstm, same_x, start, options.get("reset_mask"))[0])
    return y


CONFIGS = {
    "one": {},
    "two_layers": {"num_layers": 2},
    "three_layers": {"num_layers": 3},
    "no_bias": {"bias": False, "num_layers": 2},
    "proj": {"proj_size": 3, "hidden_size": 9, "num_layers": 2},
    "batch_first": {"batch_first": True},
    "all": {"num_layers": 3, "proj_size": 2, "bias": False, "batch_first": True},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def shaped(config, steps, batch, dtype=torch.float64, inputs=3):
    x = noise(steps, batch, inputs, dtype=dtype)
    return x.transpose(0, 1).contiguous() if config.get("batch_first") else x
