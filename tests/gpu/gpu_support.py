"""Shared by the tests on a GPU: the device, problems that every type holds exactly, and bounds.

STATEFUL_LSTM_TEST_DEVICE=cpu runs on the CPU all tests that do not need CUDA: it tests the tests.
STATEFUL_LSTM_TEST_DEVICE=cuda turns a missing GPU, or missing kernels, into a failure.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from comparisons import cotangent, error, gradients, module_results, settings, tolerance, twin
from torch import nn

import stateful_lstm

ASKED = os.environ.get("STATEFUL_LSTM_TEST_DEVICE", "")
ON_CPU = ASKED == "cpu"
DEVICE = torch.device("cpu") if ON_CPU else torch.device("cuda", 0)
BACKEND = "auto" if ON_CPU else "cuda"
ROOT = Path(__file__).resolve().parents[2]

# Type, whether products may use TF32, and the rounding of their operands.
MODES = {
    "float64": (torch.float64, False, 2.0**-52),
    "float32": (torch.float32, False, 2.0**-23),
    "tf32": (torch.float32, True, 2.0**-10),
    "float16": (torch.float16, False, 2.0**-10),
    "bfloat16": (torch.bfloat16, False, 2.0**-7),
}
modes = pytest.mark.parametrize("mode", MODES)
needs_cuda = pytest.mark.skipif(ON_CPU, reason="needs CUDA itself")


def why_not() -> str | None:
    """None if the device is present and has kernels, else the reason."""
    if ON_CPU:
        return None
    if not torch.cuda.is_available():
        return "torch has no GPU here"
    built = stateful_lstm.info()["backends"]["cuda"]
    return None if built is True else f"no CUDA kernels: {built}"


class Case(NamedTuple):
    """T steps, B rows, H hidden size, I input size, layers, both directions, projection."""

    T: int
    B: int
    H: int
    I: int = 19  # noqa: E741
    layers: int = 1
    both: bool = False
    proj: int = 0

    def __str__(self) -> str:
        extras = f"-{self.layers}layers" * (self.layers > 1) + "-both" * self.both
        return f"T{self.T}-B{self.B}-H{self.H}{extras}" + f"-proj{self.proj}" * (self.proj > 0)

    def config(self):
        return {"num_layers": self.layers, "bidirectional": self.both, "proj_size": self.proj}

    def skip_if_too_large(self):
        work = self.layers * (1 + self.both) * self.T * self.B * self.H * (self.I + self.H)
        if ON_CPU and work > 1e6:
            pytest.skip("takes a CPU too long")


def cases(*each):
    return pytest.mark.parametrize("case", [Case(*c) for c in each], ids=str)


def common(t):
    """The nearest numbers that all types can hold: one truth serves them all."""
    return t.bfloat16().half().double()


@lru_cache(maxsize=2)
def problem(case):
    """On the CPU, in float64: an nn.LSTM, x (T, B, I) and (h, c)."""
    generator = torch.Generator().manual_seed(case.T * 31 + case.B * 7 + case.H)

    def noise(*shape):
        return common(torch.randn(*shape, generator=generator, dtype=torch.float64))

    exact = nn.LSTM(case.I, case.H, dtype=torch.float64, **case.config())
    with torch.no_grad():
        for weight in exact.parameters():
            uniform = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(common((2 * uniform - 1) / case.H**0.5))
    stacks = case.layers * (1 + case.both)
    hx = noise(stacks, case.B, case.proj or case.H) / 2, noise(stacks, case.B, case.H)
    return exact, noise(case.T, case.B, case.I), hx


@lru_cache(maxsize=2)
def truth(case):
    """Outputs and gradients of nn.LSTM in float64, on the CPU."""
    exact, x, hx = problem(case)
    return module_results(exact, x, hx)


def theirs(case, mode, device=DEVICE):
    """torch's own nn.LSTM with the problem's weights."""
    exact = problem(case)[0]
    copy = nn.LSTM(case.I, case.H, device=device, dtype=MODES[mode][0], **case.config())
    copy.load_state_dict(exact.state_dict())
    return copy


def ours(case, mode, device=DEVICE, **extras):
    """A StatefulLSTM with the problem's weights."""
    return twin(theirs(case, mode, device), **extras)


def inputs(case, mode, device=DEVICE):
    """x and (h, c) in the mode's type."""
    _, x, hx = problem(case)
    dtype = MODES[mode][0]
    return x.to(device, dtype), tuple(s.to(device, dtype) for s in hx)


def weights_of(lstm):
    return dict(lstm.named_parameters())


def pure(lstm, x, hx, **extras):
    """stateful_lstm.lstm with a module's weights and settings, by the kernels of the device."""
    keywords = {"backend": BACKEND} | settings(lstm) | extras
    return stateful_lstm.lstm(x, hx, list(weights_of(lstm).values()), **keywords)


@contextlib.contextmanager
def precision(mode):
    """Allows TF32 in products and in cuDNN, or in neither; torch's default is cuDNN only."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = MODES[mode][1]
    try:
        yield
    finally:
        for flag, was in zip(flags, before, strict=True):
            flag.allow_tf32 = was


@lru_cache(maxsize=4)
def bounds(case, mode):
    """The largest error of each result: twice that of nn.LSTM, and a few roundings.

    The floor is for where nn.LSTM is exact by luck: four roundings of the largest value, and those
    of its longest sum in float32, half an eps each, of either sign.
    """
    true, (dtype, _, rounding) = truth(case), MODES[mode]
    longest = max(case.T * case.B, 4 * case.H, case.I + case.H)
    floor = 4 * rounding + longest**0.5 * 2.0**-24
    if dtype == torch.float64:  # the truth itself is no better
        steps, width = case.layers * case.T, case.I + 4 * case.H + case.T * case.B
        return dict.fromkeys(true, tolerance(dtype, steps, width))
    with precision(mode):
        try:
            found = module_results(theirs(case, mode), *inputs(case, mode))
        except RuntimeError:  # cuDNN has no such LSTM, torch itself has
            with torch.backends.cudnn.flags(enabled=False):
                found = module_results(theirs(case, mode), *inputs(case, mode))
    return {name: 2 * error(t.cpu(), true[name]) + floor for name, t in found.items()}


def assert_right(found, true, case, mode):
    """Asserts that every result is within the bounds of its problem."""
    limits = bounds(case, mode)
    errors = {name: error(t.detach().cpu(), true[name].detach()) for name, t in found.items()}
    wrong = {name: (e, limits[name]) for name, e in errors.items() if not e <= limits[name]}
    assert not wrong, f"(error, bound) by name: {wrong}"


def flat(results):
    y, (h_n, c_n) = results
    return {"output": y, "h_n": h_n, "c_n": c_n}


def same(a, b):
    """The same bits; NaN is never the same."""
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def backward(outputs, leaves):
    """Gradients of named leaves, for the seeds that comparisons.results takes."""
    seeds = [cotangent(t, k) for k, t in enumerate(outputs.values())]
    found = gradients(list(outputs.values()), list(leaves.values()), seeds)
    return {f"gradient of {name}": g for name, g in zip(leaves, found, strict=True)}


def run_apart(code, seconds=180):
    """Runs code in a new process, since it may hang or corrupt the GPU's context."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"still running after {seconds} s; it had printed {late.stdout!r}")
    assert done.returncode == 0, done.stdout
    return done.stdout
