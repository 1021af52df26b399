"""CUDA graphs, streams, and that a call never waits for the device."""

import contextlib

import pytest
import torch
from gpu_support import (
    DEVICE,
    cases,
    flat,
    inputs,
    modes,
    needs_cuda,
    ours,
    precision,
    run_apart,
    same,
)
from state_support import addresses, noise, same_bits

pytestmark = needs_cuda

STEPS = cases(
    (1, 3, 24), (1, 16, 128, 19, 2), (1, 17, 320), (1, 1, 1024), (1, 3, 40, 19, 1, False, 24)
)
CALLS = cases((16, 3, 24), (16, 16, 64, 19, 2), (16, 17, 256), (16, 3, 640), (16, 64, 1024))


def rounds(case, mode, count=5):
    """Inputs of so many calls."""
    x = noise(count, case.T, case.B, case.I, dtype=inputs(case, mode)[0].dtype)
    return x.to(DEVICE).unbind()


@contextlib.contextmanager
def beside():
    """Work on another stream: after the earlier work of this one, and before its later work."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)


def captured(run):
    """A graph of run(), after torch's warm-up calls; and the result of run()."""
    with beside():
        for _ in range(3):
            run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph, out


# ---- graphs ------------------------------------------------------------------------------------


def check_replay(case, mode, **keywords):
    x, hx = inputs(case, mode)
    eager, lstm = (ours(case, mode) for _ in range(2))
    slots = case.B + 2 if "state_indices" in keywords else case.B
    for each in (eager, lstm):
        each.allocate_state(slots)
        each.state.h[:, : case.B] = hx[0]
        each.state.c[:, : case.B] = hx[1]
    where = addresses(lstm)
    with precision(mode), torch.no_grad():
        with lstm.preserve_state():
            graph, out = captured(lambda: lstm(x, **keywords))
        assert addresses(lstm) == where and same_bits(lstm.state.h, eager.state.h)
        for new in rounds(case, mode):
            x.copy_(new)
            for t in keywords.values():  # other rows in every call
                t.copy_(t.roll(1, -1))
            graph.replay()
            assert same(flat(out), flat(eager(x, **keywords)))
            assert same_bits(lstm.state.h, eager.state.h)
            assert same_bits(lstm.state.c, eager.state.c)
        lstm.reset_state()
        eager.reset_state()
        graph.replay()
        assert same(flat(out), flat(eager(x, **keywords)))
    assert addresses(lstm) == where


@modes
@STEPS
def test_a_step_in_a_graph_advances_the_state_as_an_eager_one(case, mode):
    check_replay(case, mode)


@modes
@CALLS
def test_a_sequence_in_a_graph_advances_the_state_as_an_eager_one(case, mode):
    check_replay(case, mode)


@modes
@cases((1, 5, 24), (1, 17, 320, 19, 2), (16, 5, 24), (16, 17, 256))
def test_slots_resets_and_lengths_are_read_anew_in_every_replay(case, mode):
    rows = torch.arange(case.B, device=DEVICE) + 2
    rows[1] = -1
    generator = torch.Generator().manual_seed(1)
    reset = (torch.rand(case.T, case.B, generator=generator) < 0.3).to(DEVICE)
    lengths = torch.arange(case.B, device=DEVICE) % (case.T + 1)
    check_replay(case, mode, state_indices=rows, reset_mask=reset, lengths=lengths)


@modes
@cases((16, 3, 24), (16, 17, 256, 19, 2), (16, 64, 512), (9, 3, 40, 19, 1, False, 24))
def test_a_training_step_in_a_graph(case, mode):
    """Forward and backward; the state goes on from replay to replay, the gradients are new."""
    x, _ = inputs(case, mode)
    eager, lstm = (ours(case, mode) for _ in range(2))
    for each in (eager, lstm):
        each.allocate_state(case.B)

    def step(layer):
        for weight in layer.parameters():
            weight.grad = None
        y, _ = layer(x)
        y.float().square().mean().backward()
        return y.detach()

    with precision(mode):
        with lstm.preserve_state():
            graph, out = captured(lambda: step(lstm))
        for new in rounds(case, mode, 3):
            x.copy_(new)
            graph.replay()
            assert torch.equal(out, step(eager))
            assert same_bits(lstm.state.h, eager.state.h)
            for ours_, theirs in zip(lstm.parameters(), eager.parameters(), strict=True):
                assert torch.equal(ours_.grad, theirs.grad)


# ---- no waiting --------------------------------------------------------------------------------


class Calls:
    """A warm layer and the arguments of its calls, by variant."""

    def __init__(self, case, mode):
        x, _ = inputs(case, mode)
        self.layer, self.x = ours(case, mode), x.requires_grad_()
        self.layer.allocate_state(case.B + 2)
        rows = torch.arange(case.B, device=DEVICE) + 1
        rows[0] = -1
        reset = torch.zeros(case.T, case.B, dtype=torch.bool, device=DEVICE)
        lengths = torch.full((case.B,), case.T, device=DEVICE)
        everything = {"state_indices": rows, "reset_mask": reset, "lengths": lengths}
        self.other = self.layer.new_state(case.B)
        self.variants = {"plain": {"state": self.other}, "everything": everything}

    def run(self, variant, grad):
        with torch.set_grad_enabled(grad):
            y, _ = self.layer(self.x, **self.variants[variant])
            if grad:
                y.backward(torch.ones_like(y))


all_calls = pytest.mark.parametrize("variant", ["plain", "everything"])
train_or_not = pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])


@contextlib.contextmanager
def no_synchronisation():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@modes
@all_calls
@train_or_not
@cases((1, 3, 24), (16, 17, 256, 19, 2), (5, 3, 40, 19, 1, False, 24))
def test_torch_sees_no_synchronisation(case, grad, variant, mode):
    with precision(mode):
        calls = Calls(case, mode)
        calls.run(variant, grad)
        torch.cuda.synchronize()
        with no_synchronisation():
            calls.run(variant, grad)


def test_the_check_sees_a_synchronisation():
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=DEVICE).item()


def busy():
    """Keeps the current stream busy for over a tenth of a second; an event tells when it ends."""
    torch.cuda._sleep(400_000_000)
    return torch.cuda.current_stream().record_event()


@all_calls
@train_or_not
@cases((1, 3, 24), (16, 17, 256))
def test_a_call_returns_while_the_device_is_busy(case, grad, variant):
    """Torch cannot see a wait in this library. No call may outlast the work before it."""
    calls = Calls(case, "float32")
    for _ in range(3):
        calls.run(variant, grad)
    torch.cuda.synchronize()
    done = busy()
    calls.run(variant, grad)
    assert not done.query()
    torch.cuda.synchronize()


# ---- streams -----------------------------------------------------------------------------------


@modes
@cases((1, 3, 24), (1, 17, 320), (16, 3, 24, 19, 2), (16, 17, 256), (16, 3, 640))
def test_a_call_runs_on_the_current_stream(case, mode):
    """Its input comes late, on a side stream: whatever ran elsewhere would read the old one."""
    new, _ = inputs(case, mode)
    with precision(mode):
        expected = ours(case, mode)
        y, _ = expected(new)
        y.backward(torch.ones_like(y))
        lstm = ours(case, mode)
        lstm(torch.zeros_like(new))
        lstm.reset_state()
        x = torch.zeros_like(new)
        with beside():
            busy()
            x.copy_(new)
            found, _ = lstm(x)
            found.backward(torch.ones_like(found))
    assert torch.equal(found, y) and same_bits(lstm.state.h, expected.state.h)
    for one, other in zip(lstm.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


TWO_STREAMS = """
import torch
from stateful_lstm import StatefulLSTM

def step(layer, x):
    layer.zero_grad()
    y, _ = layer(x)
    y.backward(torch.ones_like(y))
    return [y.detach(), *(w.grad.clone() for w in layer.parameters())]

def check(B, H, dtype):
    layers = [StatefulLSTM(32, H, device="cuda", dtype=dtype) for _ in range(2)]
    inputs = [torch.randn(64, B, 32, device="cuda", dtype=dtype) for _ in range(2)]
    pairs = list(zip(layers, inputs))
    expected = [[step(*pair) for pair in pairs] for _ in range(5)]
    for layer in layers:
        layer.reset_state()
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    found = []
    for _ in range(5):
        found.append([])
        for stream, pair in zip(streams, pairs):
            with torch.cuda.stream(stream):
                found[-1].append(step(*pair))
    torch.cuda.synchronize()
    for one, other in zip(sum(sum(expected, []), []), sum(sum(found, []), [])):
        assert torch.equal(one, other)

for dtype in (torch.float32, torch.bfloat16):
    print(dtype, flush=True)
    check({B}, {H}, dtype)
print("done")
"""


@pytest.mark.parametrize(("B", "H"), [(16, 64), (16, 256), (16, 1024), (64, 768), (200, 2048)])
def test_two_layers_on_two_streams_leave_each_other_alone(B, H):
    """In a new process: blocks that wait for each other and never all fit would hang it."""
    assert run_apart(TWO_STREAMS.format(B=B, H=H)).endswith("done\n")


@modes
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
@cases((1, 17, 320), (16, 3, 64), (16, 17, 640))
def test_a_second_gpu(case, mode):
    """The current device stays the first one."""
    second = torch.device("cuda", 1)
    with precision(mode):
        results = []
        for device in (DEVICE, second):
            x, hx = inputs(case, mode, device)
            lstm = ours(case, mode, device)
            y, _ = lstm(x, hx)
            y.backward(torch.ones_like(y))
            lstm.eval()
            with torch.no_grad():
                results.append([y, lstm(x)[0], *(w.grad for w in lstm.parameters())])
                assert lstm.state.h.device == device
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu())
