"""The candidates of each row of benchmarks/gpu/bench.py, all for one device.

A function without arguments makes each candidate, so that a failure leaves out that candidate only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cpu import resets as reset_variants
from benchmarks.cpu.peers import OURS, our_twin, train_step
from benchmarks.cpu.resets import NO_RESETS
from benchmarks.cpu.timing import Candidate
from benchmarks.gpu.peers import (
    FLASHRNN_BACKENDS,
    FLASHRNN_SHAPES,
    TORCHRL_SHAPES,
    Peer,
    flashrnn,
    torchrl,
    why_absent,
)
from benchmarks.gpu.timing import captured
from benchmarks.shapes import Shape
from stateful_lstm import StatefulLSTM

Makers = dict[str, Callable[[], Candidate]]
TORCH = "nn.LSTM"
MODES = {  # type, and whether products may be in TF32
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}
TRAINING = ("train", "loop train", "resets")  # forward and backward
# Relative to the norm. Loose: it must detect a wrong computation; tests/gpu is strict.
TOLERANCE = {"float32": 1e-3, "tf32": 0.02, "float16": 0.03, "bfloat16": 0.1}


class NotInstalledError(Exception):
    """A peer is not installed."""


class Problem:
    """One shape in one mode: weights, x, the output's gradient, resets, expected results."""

    def __init__(self, shape: Shape, mode: str, device: torch.device) -> None:
        self.shape, self.mode, self.device = shape, mode, device
        self.dtype, self.tf32 = MODES[mode]
        torch.manual_seed(0)
        T, B, I, H, layers = shape  # noqa: E741
        self.lstm = nn.LSTM(I, H, layers, device=device, dtype=self.dtype)
        self.x = torch.randn(T, B, I, device=device).to(self.dtype)
        self.grad = torch.randn(T, B, H, device=device).to(self.dtype)
        self.mask = reset_variants.random_resets(shape).to(device) if T > 1 else None

    def ours(self, stateful: bool) -> StatefulLSTM:
        return our_twin(self.lstm, stateful)

    def expected(self, kind: str) -> Any:
        """The results of nn.LSTM in float32."""
        exact = nn.LSTM(*self.shape[2:], device=self.device)
        exact.load_state_dict(self.lstm.state_dict())
        x = self.x.float()

        def forward() -> Tensor:
            if kind == "resets" and self.mask is not None:
                return reset_variants.step_by_step(exact, x, self.mask)
            output: Tensor = exact(x)[0]
            return output

        if kind in TRAINING:
            return train_step(exact, forward, self.grad.float())
        with torch.no_grad():
            return forward()

    def candidate(self, name: str, module: nn.Module, forward: Any, train: bool) -> Candidate:
        if train:
            return Candidate(name, partial(train_step, module, forward, self.grad))
        return Candidate(name, forward, torch.inference_mode)


def makers(problem: Problem, kind: str) -> Makers:
    if kind in ("infer", "train"):
        return sequences(problem, kind in TRAINING)
    if kind in ("loop", "loop train"):
        return sequences(problem, kind in TRAINING, peers=False) | loops(problem, kind)
    if kind == "resets":
        return with_resets(problem)
    return steps(problem, in_graph=kind == "graph")


def sequences(problem: Problem, train: bool, peers: bool = True) -> Makers:
    lstm, x = problem.lstm, problem.x

    def ours() -> Candidate:
        layer = problem.ours(stateful=False)
        return problem.candidate(OURS, layer, lambda: layer(x)[0], train)

    made: Makers = {
        OURS: ours,
        TORCH: lambda: problem.candidate(TORCH, lstm, lambda: lstm(x)[0], train),
    }
    if peers and problem.shape in TORCHRL_SHAPES:
        triton = partial(torchrl, lstm, x, problem.tf32)
        made["TorchRL"] = partial(peer, problem, "TorchRL", "torchrl", triton, train)
    if peers and problem.shape in FLASHRNN_SHAPES:
        for name, backend in FLASHRNN_BACKENDS.items():
            flash = partial(flashrnn, lstm, x, problem.tf32, backend)
            made[name] = partial(peer, problem, name, "flashrnn", flash, train)
    return made


def peer(
    problem: Problem, name: str, package: str, make: Callable[[], Peer], train: bool
) -> Candidate:
    absent = why_absent(package)
    if absent:
        raise NotInstalledError(absent)
    module, forward = make()
    return problem.candidate(name, module, forward, train)


def loops(problem: Problem, kind: str) -> Makers:
    """A Python loop over the steps, as in programs that need the state in between."""
    lstm, x, train = problem.lstm, problem.x, kind in TRAINING
    _, B, I, H, _ = problem.shape  # noqa: E741

    def over_cell() -> Candidate:
        cell = nn.LSTMCell(I, H, device=problem.device, dtype=problem.dtype)
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in lstm.state_dict().items()})

        def forward() -> Tensor:
            h = c = x.new_zeros(B, H)
            outputs = []
            for step in x.unbind():
                h, c = cell(step, (h, c))
                outputs.append(h)
            return torch.stack(outputs)

        return problem.candidate("loop over nn.LSTMCell", cell, forward, train)

    def over_layer() -> Candidate:
        def forward() -> Tensor:
            states = None
            outputs = []
            for step in x.split(1):
                y, states = lstm(step, states)
                outputs.append(y)
            return torch.cat(outputs)

        return problem.candidate("loop over nn.LSTM", lstm, forward, train)

    return {"loop over nn.LSTMCell": over_cell, "loop over nn.LSTM": over_layer}


def with_resets(problem: Problem) -> Makers:
    """Forward and backward; NO_RESETS computes without resets, to show their cost."""
    lstm, x, mask = problem.lstm, problem.x, problem.mask
    assert mask is not None

    def ours(name: str, **keywords: Any) -> Candidate:
        layer = problem.ours(stateful=False)
        return problem.candidate(name, layer, lambda: layer(x, **keywords)[0], True)

    def other(name: str, variant: Callable[[nn.LSTM, Tensor, Tensor], Tensor]) -> Candidate:
        return problem.candidate(name, lstm, partial(variant, lstm, x, mask), True)

    made: Makers = {
        OURS: lambda: ours(OURS, reset_mask=mask),
        NO_RESETS: lambda: ours(NO_RESETS),
    }
    for variant, function in (
        ("loop over", reset_variants.step_by_step),
        ("split and pad,", reset_variants.split_and_pad),
    ):
        made[f"{variant} {TORCH}"] = partial(other, f"{variant} {TORCH}", function)
    triton = partial(torchrl, lstm, x, problem.tf32, mask)
    made["TorchRL"] = partial(peer, problem, "TorchRL", "torchrl", triton, True)
    return made


def steps(problem: Problem, in_graph: bool) -> Makers:
    """T = 1 and the state carried on, call by call or replay by replay."""
    lstm, x, shape = problem.lstm, problem.x, problem.shape

    def ours() -> Candidate:
        layer = problem.ours(stateful=True).eval()
        layer.allocate_state(shape.B)
        if not in_graph:
            return Candidate(OURS, lambda: layer(x)[0], torch.inference_mode)
        with torch.no_grad(), layer.preserve_state():
            graph, (output, _) = captured(lambda: layer(x))
        return replays(OURS, graph, output, layer)

    def theirs() -> Candidate:
        h, c = (x.new_zeros(shape.layers, shape.B, shape.H) for _ in range(2))
        if not in_graph:
            states: Any = (h, c)

            def run() -> Tensor:
                nonlocal states
                output, states = lstm(x, states)
                return output  # type: ignore[no-any-return]

            return Candidate(TORCH, run, torch.inference_mode)

        def step() -> Tensor:
            output, (h_n, c_n) = lstm(x, (h, c))
            h.copy_(h_n)
            c.copy_(c_n)
            return output  # type: ignore[no-any-return]

        with torch.no_grad():
            graph, output = captured(step)
            h.zero_()
            c.zero_()
        return replays(TORCH, graph, output, h, c)

    def replays(
        name: str, graph: torch.cuda.CUDAGraph, output: Tensor, *needed: object
    ) -> Candidate:
        def run(_: object = needed) -> Tensor:  # a graph does not keep its inputs alive
            graph.replay()
            return output

        return Candidate(name, run)

    return {OURS: ours, TORCH: theirs}
