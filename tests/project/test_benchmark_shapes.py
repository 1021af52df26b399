"""The results of every shape in the benchmarks' grid are right, against nn.LSTM.

As tests/kernels/test_parity.py does for small sizes: at most twice nn.LSTM's own error against
float64.
"""

import copy
from contextlib import contextmanager

import pytest
import torch
from comparisons import assert_as_good_as, double, module_results, random_hx, twin
from torch import nn

from benchmarks.shapes import ROLLOUTS, SHAPES

# Products of nn.LSTM in bfloat16, which takes 10 to 40 times as long as float32 on a processor
# that lacks instructions for it: there, and only there, large shapes get fewer steps.
MOST = {torch.float32: 10**11, torch.bfloat16: 4 * 10**8}


def shortened(shape, dtype):
    steps = max(1, MOST[dtype] // shape._replace(T=1).operations(train=True))
    return shape._replace(T=min(shape.T, max(steps, min(shape.T, 3))))


def problem(shape, dtype):
    shape = shortened(shape, dtype)
    lstm = nn.LSTM(shape.I, shape.H, shape.layers, dtype=dtype)
    return lstm, torch.randn(shape.T, shape.B, shape.I).to(dtype), random_hx(lstm, shape.B)


grid = pytest.mark.parametrize(
    "shape", SHAPES + ROLLOUTS, ids=lambda shape: "-".join(map(str, shape))
)
dtypes = pytest.mark.parametrize("dtype", MOST, ids=lambda d: str(d).removeprefix("torch."))


@contextmanager
def one_thread():
    """For the others: many short products on busy cores wait for threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.sampled(most=12)
@grid
@dtypes
def test_outputs_states_and_gradients(shape, dtype):
    lstm, x, hx = problem(shape, dtype)
    with one_thread():
        truth = module_results(copy.deepcopy(lstm).double(), double(x), double(hx))
        theirs = module_results(lstm, x, hx)
    assert_as_good_as(module_results(twin(lstm, stateful=False), x, hx), theirs, truth)


@pytest.mark.sampled(most=12)
@grid
@dtypes
def test_inference_carries_the_state(shape, dtype):
    """Two calls, as in the benchmark: the second goes on where the first ended."""
    lstm, x, _ = problem(shape, dtype)
    lstm.eval()
    ours = twin(lstm)
    exact, exact_states, states = copy.deepcopy(lstm).double(), None, None
    with torch.inference_mode():
        for _ in range(2):
            got, (h, c) = ours(x)
            with one_thread():
                output, states = lstm(x, states)
                truth, exact_states = exact(x.double(), exact_states)
    assert_as_good_as(
        {"output": got, "h_n": h, "c_n": c.to(h.dtype)},
        {"output": output, "h_n": states[0], "c_n": states[1]},
        {"output": truth, "h_n": exact_states[0], "c_n": exact_states[1]},
    )
