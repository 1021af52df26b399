"""Layers that run any rows in any batch, cut into any calls, to compare the bits.

A row's bits depend neither on its batch, nor on the cut into calls, nor on neighbors or threads.
This holds within each of three variants. The variants order their sums differently, and so differ
from each other in the last bits:

* steps: inference of at most 4 steps (`lstm_step_` and its fast path), one direction;
* in place: other inference with B <= 4 and without projection, up to a T * B that grows with the
  weights. T has no limit if the weights are too large for the cache, or with
  STATEFUL_LSTM_PACK=never. In bfloat16 the processor must have bfloat16 products;
* packed: everything else. With STATEFUL_LSTM_PACK=always, all calls except the steps.

Training uses the last two like inference, so its outputs have the same bits. The backward
recurrence is always packed. In bfloat16 on AMX's tiles all three give the same bits, except with
projections.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from state_support import noise, same_bits

from stateful_lstm import StatefulLSTM
from stateful_lstm.backend import operators

MARKS = [
    pytest.mark.skipif(operators.missing is not None, reason="needs the library"),
    pytest.mark.usefixtures("one_thread"),
]

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TILED = operators.missing is None and operators.cpu_capability() in ("amx", "tiles")
SIZES = [1, 7, 8, 33, 64, 100]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
sizes = pytest.mark.parametrize("H", SIZES)


def sums_of(dtype):
    return torch.float32 if dtype == torch.bfloat16 else dtype


class Steps:
    """A stack, its input, and the expected results: each row alone, one step per call."""

    def __init__(self, H, dtype, rows=130, steps=4, inputs=None, **config):
        torch.manual_seed(3)
        self.lstm = StatefulLSTM(inputs or H + 2, H, dtype=dtype, **config)
        self.x = noise(steps, rows, inputs or H + 2, dtype=dtype)
        sizes = self.lstm.new_state(rows)
        self.h0 = noise(*sizes.h.shape, seed=2, dtype=dtype)
        self.c0 = noise(*sizes.c.shape, seed=3, dtype=sums_of(dtype))
        self.y = torch.empty(steps, rows, sizes.h.size(2) * (2 if self.lstm.bidirectional else 1))
        self.y = self.y.to(dtype)
        self.h, self.c = torch.empty_like(self.h0), torch.empty_like(self.c0)
        for b in range(rows):
            state = self.state([b])
            for t in range(steps):
                self.y[t, b] = self.call(self.x[t : t + 1, b : b + 1], state)[0, 0]
            self.h[:, b], self.c[:, b] = state.h[:, 0], state.c[:, 0]

    def state(self, rows):
        state = self.lstm.new_state(len(rows))
        state.write((self.h0[:, rows], self.c0[:, rows]))
        return state

    def call(self, x, state, **options):
        with torch.no_grad():
            return self.lstm(x, state=state, **options)[0]

    def check(self, rows, y, state, slots=slice(None)):
        assert same_bits(y, self.y[:, rows])
        assert same_bits(state.h[:, slots], self.h[:, rows])
        assert same_bits(state.c[:, slots], self.c[:, rows])


class Layer:
    """One layer's weights and its whole input. It runs any rows, cut into any calls."""

    def __init__(self, H, dtype, T=24, rows=12, proj=None, bias=True, reverse=False):
        wide, P, inputs = sums_of(dtype), proj or H, 5
        scale = (inputs + P) ** -0.5
        self.weights = [
            noise(4 * H, inputs, seed=1, dtype=dtype) * scale * 3,
            noise(4 * H, P, seed=2, dtype=dtype) * scale * 3,
            noise(4 * H, seed=3, dtype=dtype) if bias else None,
            noise(4 * H, seed=4, dtype=dtype) if bias else None,
            noise(P, H, seed=5, dtype=dtype) if proj else None,
        ]
        self.T, self.rows, self.reverse = T, rows, reverse
        self.x = noise(T, rows, inputs, seed=6, dtype=dtype)
        self.h0 = noise(rows, P, seed=7, dtype=dtype)
        self.c0 = noise(rows, H, seed=8, dtype=wide)
        self.reset = noise(T, rows, seed=9) > 1
        self.mask = (noise(rows, P, seed=10) > 0).to(dtype) * 2

    def run(self, rows, cut=(), save=0, lengths=None, reset=None, mask=None):
        """y, h_n, c_n, gates and cells of some rows. `cut` divides the steps into calls."""
        rows = list(rows)
        h, c = self.h0[rows], self.c0[rows]
        parts = []
        edges = [0, *cut, self.T]
        calls = list(itertools.pairwise(edges))
        for begin, end in calls[::-1] if self.reverse else calls:
            y, h, c, *saved = operators.lstm_forward(
                self.x[begin:end, rows],
                *self.weights,
                h,
                c,
                None if reset is None else reset[begin:end, rows],
                None if lengths is None else (lengths[rows] - begin).clamp(0, end - begin),
                None if mask is None else mask[rows],
                self.reverse,
                save,
                in_place=True,
            )
            parts.append((y, *saved))
        joined = [
            torch.cat(each) for each in zip(*parts[:: -1 if self.reverse else 1], strict=True)
        ]
        return {"y": joined[0], "h_n": h, "c_n": c, "gates": joined[1], "cells": joined[2]}


def rows_of(results, rows):
    """The given rows of a call's results. In arrays over time, rows are the second dimension."""
    return {k: t[:, rows] if t.dim() == 3 else t[rows] for k, t in results.items()}


def assert_equal(found, expected):
    for name in expected:
        assert same_bits(found[name], expected[name]), name


FORMS = {
    "plain": {},
    "no_bias": {"bias": False},
    "proj": {"proj": 3},
    "reverse": {"reverse": True},
}
CUTS = [(), (1,), (23,), (5, 10), (3, 4, 20), tuple(range(1, 24))]


def in_a_process(module, call, **env):
    """The words that a call of module `t` prints in a process with these environment variables."""
    tests = Path(__file__).resolve().parents[1] / "invariance"
    path = os.pathsep.join([str(tests), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", f"import {module} as t\n{call}"],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout.split()
