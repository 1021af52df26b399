"""The cost of masks, lengths, slots and a second direction, against the same call without.

All calls belong to this library, so they alternate call by call: noise of the machine hits all
alike.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cpu.peers import our_twin, settings, train_step
from benchmarks.cpu.report import FeatureCost
from benchmarks.cpu.resets import EPISODE, random_resets
from benchmarks.cpu.timing import Candidate, alternating
from benchmarks.shapes import Shape
from stateful_lstm import StatefulLSTM

MOST = 0.1  # target: the largest share of the call without the feature


def compared(
    names: list[str], runs: list[Candidate], shape: Shape, dtype: str, seconds: float
) -> list[FeatureCost]:
    """The cost of each run but the first, against the first."""
    base, *times = alternating(runs, seconds)
    return [
        FeatureCost(name, dtype, shape, time, base, most=MOST)
        for name, time in zip(names, times, strict=True)
    ]


def inference(
    lstm: nn.LSTM, x: Tensor, shape: Shape, dtype: str, seconds: float
) -> list[FeatureCost]:
    T, B = x.shape[:2]
    ours = our_twin(lstm.eval(), stateful=True)
    ours.allocate_state(B)
    arguments: dict[str, dict[str, Any]] = {
        "plain": {},
        "state_indices": {"state_indices": torch.randperm(B)},
        "lengths, all T": {"lengths": torch.full((B,), T)},
        "lengths, random 1 to T": {"lengths": torch.randint(1, T + 1, (B,))},
        "reset_mask": {"reset_mask": torch.rand(T, B) < 1 / EPISODE},
    }
    context = settings(True, inference=True)
    runs = [
        Candidate(name, partial(ours, x, **keywords), context)
        for name, keywords in arguments.items()
    ]
    return compared(list(arguments)[1:], runs, shape, dtype, seconds)


def both_directions(x: Tensor, shape: Shape, dtype: str, seconds: float) -> list[FeatureCost]:
    """One call of a bidirectional layer, against a call of a plain layer for each direction."""
    sizes = shape.I, shape.H, shape.layers
    one, other, both = (
        StatefulLSTM(*sizes, dtype=x.dtype, bidirectional=two).eval()
        for two in (False, False, True)
    )
    context = settings(True, inference=True)
    runs = [
        Candidate("two calls", lambda: (one(x), other(x)), context),
        Candidate("both", lambda: both(x), context),
    ]
    return compared(["both directions, of two calls"], runs, shape, dtype, seconds)


def training(
    lstm: nn.LSTM, x: Tensor, grad: Tensor, shape: Shape, dtype: str, seconds: float
) -> list[FeatureCost]:
    ours = our_twin(lstm.train(), stateful=False)
    mask = random_resets(shape)
    context = settings(True, inference=False)
    runs = [
        Candidate("plain", partial(train_step, ours, lambda: ours(x)[0], grad), context),
        Candidate(
            "masked",
            partial(train_step, ours, lambda: ours(x, reset_mask=mask)[0], grad),
            context,
        ),
    ]
    return compared(["reset_mask, training"], runs, shape, dtype, seconds)


class Empty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def empty_call(lstm: nn.LSTM, x: Tensor, shape: Shape, dtype: str, seconds: float) -> FeatureCost:
    """A small step, against the call of a module that does nothing."""
    empty, ours = Empty(), our_twin(lstm.eval(), stateful=True)
    context = settings(True, inference=True)
    nothing = Candidate("empty", lambda: empty(x), context)
    base, step = alternating([nothing, Candidate("step", lambda: ours(x), context)], seconds)
    return FeatureCost("a step over an empty module", dtype, shape, step, base, False, 8.0)
