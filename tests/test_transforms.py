"""torch.compile, torch.func and autocast around the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM


def pair(**kwargs: object) -> tuple[StatefulLSTM, StatefulLSTM]:
    first, second = StatefulLSTM(4, 8, **kwargs), StatefulLSTM(4, 8, **kwargs)
    second.load_state_dict(first.state_dict())
    return first, second


# torch's own tracing instantiates an autograd Function, and warns of that.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("train", [False, True])
def test_a_compiled_stateful_layer_goes_on_from_call_to_call(steps: int, train: bool) -> None:
    eager, other = pair(num_layers=2)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        x = torch.randn(steps, 2, 4)
        with torch.set_grad_enabled(train):
            expected, found = eager(x)[0], compiled(x)[0]
        torch.testing.assert_close(found, expected)
        if train:
            grads = [
                torch.autograd.grad(y.sum(), m.parameters())
                for y, m in ((expected, eager), (found, other))
            ]
            torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(other.state.read(), eager.state.read())


def test_func_transforms() -> None:
    weights = [p.detach() for p in nn.LSTM(4, 8).parameters()]

    def run(x: torch.Tensor) -> torch.Tensor:
        return stateful_lstm.lstm(x, None, weights)[0]

    xs = torch.randn(5, 3, 2, 4)
    each = torch.stack([run(x) for x in xs])
    torch.testing.assert_close(torch.func.vmap(run)(xs), each)
    x = xs[0].clone().requires_grad_()
    expected = torch.autograd.grad(run(x).sum(), x)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: run(x).sum())(xs[0]), expected)
    step = 1e-3 * torch.randn_like(xs[0])
    _, along = torch.func.jvp(run, (xs[0],), (step,))
    torch.testing.assert_close(along, run(xs[0] + step) - run(xs[0]), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_func_transforms_of_a_stateful_layer_are_refused(steps: int) -> None:
    lstm, xs = StatefulLSTM(4, 8), torch.randn(5, steps, 2, 4)
    with torch.no_grad(), pytest.raises(RuntimeError, match="stateful=False"):
        torch.func.vmap(lambda x: lstm(x)[0])(xs)
    assert lstm.state is None


def test_autocast_computes_in_its_dtype_and_keeps_the_state_wide() -> None:
    lstm = StatefulLSTM(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y, (h, c) = lstm(torch.randn(3, 2, 4))
    assert y.dtype == h.dtype == c.dtype == torch.bfloat16
    assert lstm.state.h.dtype == lstm.state.c.dtype == torch.float32
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in lstm.parameters())
