"""Several threads use one resident state at the same time, each with slots of its own."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from stateful_lstm import StatefulLSTM
from stateful_lstm.backend import operators

THREADS, OWN, CALLS, ROUNDS = 4, 3, 20, 4
H = 96  # large enough for kernels to let other Python threads run meanwhile
SLOTS = THREADS * OWN + 2  # the last two are nobody's


@pytest.fixture
def eager_switches():
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run(lstm, x, states, together, grad):
    """Each thread's calls, with its own slots in another order each time, and a row of padding."""
    lstm.state.write(states)
    outputs: dict[int, torch.Tensor] = {}
    ready = threading.Barrier(THREADS)

    def serve(k):
        slots = torch.arange(k, THREADS * OWN, THREADS)  # every fourth: neighbours are others'
        if together:
            ready.wait(timeout=60)
        with torch.set_grad_enabled(grad):
            mine = [
                lstm(part, state_indices=torch.cat([slots.roll(n), torch.tensor([-1])]))[0]
                for n, part in enumerate(x[k])
            ]
        outputs[k] = torch.stack(mine).detach()

    if together:
        threads = [threading.Thread(target=serve, args=(k,)) for k in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for k in range(THREADS):
            serve(k)
    return torch.stack([outputs[k] for k in range(THREADS)]), *lstm.state.read()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("way", ["inference", "inference by operators", "training"])
def test_threads_with_their_own_slots_get_the_bits_of_one_after_another(
    monkeypatch, eager_switches, dtype, steps, way
):
    if way == "inference by operators":
        monkeypatch.setattr(operators, "fastpath_inference", None)
    grad = way == "training"
    torch.manual_seed(3)
    lstm = StatefulLSTM(8, H, 2, dtype=dtype)
    lstm.allocate_state(SLOTS)
    states = torch.randn(2, SLOTS, H), torch.randn(2, SLOTS, H)
    x = torch.randn(THREADS, CALLS, steps, OWN + 1, 8).to(dtype)
    places = lstm.state.h.data_ptr(), lstm.state.c.data_ptr()
    expected = run(lstm, x, states, together=False, grad=grad)
    for _ in range(ROUNDS):
        found = run(lstm, x, states, together=True, grad=grad)
        assert all(map(torch.equal, found, expected))
    assert (lstm.state.h.data_ptr(), lstm.state.c.data_ptr()) == places
    for state, given in zip(expected[1:], states, strict=True):  # of nobody's slots
        assert torch.equal(state[:, -2:], given[:, -2:].to(state.dtype))
