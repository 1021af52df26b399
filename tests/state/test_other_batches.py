"""Batches of another size than the state: when the state is replaced, and when the call fails."""

import pickle
import re

import pytest
import torch
from state_support import every_mode, make, noise

import stateful_lstm


def hx(B, stacks=1, H=5, grad=False):
    return tuple(noise(stacks, B, H, seed=k).requires_grad_(grad) for k in (3, 4))


@every_mode
def test_hx_wins_over_a_state_that_calls_with_whole_batches_made(steps, grad):
    lstm = make()
    twin = make(stateful=False)
    for B in (2, 6, 1, 0, 3):
        x = noise(steps, B, 3)
        with torch.set_grad_enabled(grad):
            y, (h_n, c_n) = lstm(x, hx(B, grad=grad))
            expected, _ = twin(x, hx(B))
        torch.testing.assert_close(y, expected)
        assert lstm.state.slots == B
        assert torch.equal(lstm.state.h, h_n)
        assert torch.equal(lstm.state.c, c_n)
    lstm(noise(steps, 3, 3))  # goes on from the last one


def test_the_address_stays_as_long_as_the_size_does():
    lstm = make()
    lstm(noise(2, 4, 3), hx(4))
    state, address = lstm.state, lstm.state.h.data_ptr()
    lstm(noise(2, 4, 3), hx(4))
    assert lstm.state is state
    assert lstm.state.h.data_ptr() == address


def in_use(kind):
    lstm = make()
    if kind == "allocated":
        lstm.allocate_state(16)
    elif kind == "slots in a step":
        lstm(noise(1, 16, 3))
        with torch.no_grad():
            lstm(noise(1, 2, 3), state_indices=torch.tensor([3, 9]))
    elif kind == "slots in training":
        lstm(noise(1, 16, 3))
        lstm(noise(3, 2, 3), state_indices=torch.tensor([3, 9]))
    elif kind == "slots with hx":
        lstm(noise(1, 16, 3))
        lstm(noise(3, 2, 3), hx(2), state_indices=torch.tensor([3, 9]))
    elif kind == "set":
        lstm(noise(1, 16, 3))
        states = stateful_lstm.get_state(lstm)
        lstm = make()
        stateful_lstm.set_state(lstm, states)
    lstm.state.write((torch.ones(1, 16, 5), torch.ones(1, 16, 5)))
    return lstm


@pytest.mark.parametrize(
    "kind", ["allocated", "slots in a step", "slots in training", "slots with hx", "set"]
)
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("grad", [False, True])
def test_a_state_that_holds_streams_is_not_thrown_away(kind, steps, grad):
    lstm = in_use(kind)
    state, before = lstm.state, lstm.state.read()
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(ValueError, match=r"4 rows.*16 slots") as error,
    ):
        lstm(noise(steps, 4, 3), hx(4))
    assert_advice_is_safe(str(error.value), 4)
    assert lstm.state is state
    assert all(map(torch.equal, state.read(), before))
    # What the error names works.
    y, _ = lstm(noise(steps, 4, 3), hx(4), state=lstm.new_state(4))
    assert y.shape == (steps, 4, 5)
    assert all(map(torch.equal, state.read(), before))


def assert_advice_is_safe(text, B):
    """What keeps the state is named before what discards it, which is said to."""
    for advice in (f"state=layer.new_state({B})", "stateful=False", "state_indices"):
        assert text.index(advice) < min(
            (m.start() for m in re.finditer("allocate_state|reset_state", text)), default=len(text)
        )
    if "allocate_state" in text:
        assert "discard" in text


def test_without_hx_a_state_is_never_replaced_but_after_a_reset_of_all():
    lstm = make()
    lstm(noise(2, 4, 3), hx(4))
    with pytest.raises(ValueError, match="3 rows") as error:
        lstm(noise(2, 3, 3))
    assert_advice_is_safe(str(error.value), 3)
    lstm.reset_state()
    lstm(noise(2, 3, 3))
    assert lstm.state.slots == 3
    assert lstm.state.replaceable


def test_another_state_is_never_replaced():
    lstm = make()
    lstm(noise(2, 4, 3))
    other = lstm.state
    lstm.allocate_state(2)
    with pytest.raises(ValueError, match="3 rows") as error:
        lstm(noise(2, 3, 3), hx(3), state=other)
    assert "allocate_state" not in str(error.value)
    assert other.slots == 4


def test_a_failed_call_replaces_nothing():
    lstm = make()
    lstm(noise(2, 4, 3))
    state = lstm.state
    with pytest.raises(RuntimeError, match="hidden"):
        lstm(noise(2, 3, 3), hx(3, H=4))
    assert lstm.state is state


def test_the_old_state_comes_back_after_preserve_state():
    lstm = make()
    lstm(noise(2, 4, 3))
    state, before = lstm.state, lstm.state.read()
    with lstm.preserve_state():
        lstm(noise(2, 3, 3), hx(3))
        assert lstm.state.slots == 3
    assert lstm.state is state
    assert all(map(torch.equal, lstm.state.read(), before))
    lstm(noise(2, 3, 3), hx(3))
    assert lstm.state.slots == 3


def test_copies_and_pickles_of_a_state_know_what_made_it():
    lstm = make()
    lstm(noise(2, 4, 3))
    for state in (pickle.loads(pickle.dumps(lstm.state)), lstm.__deepcopy__({}).state):
        assert state.replaceable
    lstm(noise(2, 4, 3), state_indices=torch.arange(4))
    for state in (pickle.loads(pickle.dumps(lstm.state)), lstm.__deepcopy__({}).state):
        assert not state.replaceable


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_whole_graph_does_not_replace_and_a_broken_one_does(fresh_compiler):
    lstm = make()
    lstm(noise(2, 4, 3))
    call = torch.compile(lstm, backend="aot_eager", fullgraph=True)
    call(noise(2, 4, 3), hx(4))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="3 rows") as error:
        call(noise(2, 3, 3), hx(3))
    assert "state=layer.new_state(3)" in str(error.value)
    assert lstm.state.slots == 4
    broken = torch.compile(lstm, backend="aot_eager")
    broken(noise(2, 3, 3), hx(3))
    assert lstm.state.slots == 3
    call(noise(2, 2, 3), state_indices=torch.tensor([0, 2]))
    assert not lstm.state.replaceable
