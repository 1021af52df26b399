"""torch.compile on CUDA: CUDA graphs over the resident state, window after window."""

import pytest
import torch
from gpu_support import DEVICE, ON_CPU, cases, inputs, needs_cuda, ours, precision
from state_support import addresses, noise
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from stateful_lstm import StatefulLSTM

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

some_modes = pytest.mark.parametrize("mode", ["float32", "float16", "bfloat16"])


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch._dynamo.reset()
    counters.clear()


def pair(case, mode):
    if ON_CPU and mode == "float16":
        pytest.skip("without kernels the reference is compiled, which rounds otherwise")
    x, _ = inputs(case, mode)
    layers = ours(case, mode), ours(case, mode)
    for layer in layers:
        layer.allocate_state(case.B)
    return x, *layers


@some_modes
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@cases((1, 3, 24), (16, 17, 256, 19, 2), (9, 3, 40, 19, 1, False, 24))
def test_windows_share_one_graph_and_one_state(case, train, mode):
    x, eager, other = pair(case, mode)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(other, fullgraph=True, backend=counter)
    where = addresses(other)
    with precision(mode):
        for k in range(4):
            x = noise(*x.shape, seed=k, dtype=x.dtype).to(x.device)
            with torch.set_grad_enabled(train):
                expected, y = eager(x)[0], compiled(x)[0]
            torch.testing.assert_close(y, expected)
            if train:
                found, true = (
                    torch.autograd.grad(out.float().square().mean(), layer.parameters())
                    for out, layer in ((y, other), (expected, eager))
                )
                torch.testing.assert_close(found, true)
            torch.testing.assert_close(other.state.read(), eager.state.read())
    assert counter.frame_count == 1 and addresses(other) == where


@needs_cuda
@some_modes
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@cases((1, 3, 24), (16, 17, 256, 19, 2), (1, 1, 1024))
def test_reduce_overhead_replays_graphs_that_write_the_state(case, train, mode):
    x, eager, other = pair(case, mode)
    compiled = torch.compile(other, fullgraph=True, mode="reduce-overhead")
    where = addresses(other)
    with precision(mode):
        for k in range(6):  # the first calls warm up and record
            torch.compiler.cudagraph_mark_step_begin()
            x = noise(*x.shape, seed=k, dtype=x.dtype).to(x.device)
            with torch.set_grad_enabled(train):
                expected, y = eager(x)[0], compiled(x)[0]
            torch.testing.assert_close(y.clone(), expected)
            if train:
                found, true = (
                    torch.autograd.grad(out.float().square().mean(), layer.parameters())
                    for out, layer in ((y, other), (expected, eager))
                )
                torch.testing.assert_close([t.clone() for t in found], list(true))
            torch.testing.assert_close(other.state.read(), eager.state.read())
            if k == 3:
                eager.reset_state()
                other.reset_state()
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert addresses(other) == where


@needs_cuda
def test_reduce_overhead_has_a_graph_for_each_size():
    layer = StatefulLSTM(19, 64, stateful=False, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for k in range(12):
        T, B = ((16, 4), (32, 4), (32, 8))[k % 3]
        x = noise(T, B, 19, seed=k).to(DEVICE)
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x)[0].clone(), layer(x)[0])
    assert counters["inductor"]["cudagraph_skips"] == 0
