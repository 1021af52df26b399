"""Tensors whose storage was freed raise an error with their name; the process does not end."""

import copy

import pytest
import torch
from state_support import every_mode, make, noise

import stateful_lstm
from stateful_lstm.backend import operators


def freed(t):
    """A part of a larger storage, as FSDP's weights are, and the storage gone."""
    whole = torch.zeros(t.numel() + 3, dtype=t.dtype)
    part = whole[3:].view(t.shape)
    whole.untyped_storage().resize_(0)
    return part


def arguments(T, dtype):
    return {
        "input": noise(T, 2, 3, dtype=dtype),
        "h": noise(1, 2, 5, dtype=dtype),
        "c": noise(1, 2, 5, dtype=dtype),
        "reset_mask": torch.zeros(T, 2, dtype=torch.bool),
        "lengths": torch.tensor([1, 1]),
        "state_indices": torch.tensor([1, 0]),
    }


@every_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["input", "h", "c", "reset_mask", "lengths", "state_indices"])
def test_every_argument_of_a_call_is_refused(steps, grad, dtype, name):
    lstm = make(dtype=dtype)
    lstm.allocate_state(2)
    given = arguments(steps, dtype)
    hx = None
    if name in ("h", "c"):
        given[name] = freed(given[name])
        hx = given["h"], given["c"]
    else:
        given[name] = freed(given[name])
    options = {k: given[k] for k in ("reset_mask", "lengths", "state_indices")}
    before = lstm.state.read()
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="storage was freed"):
        lstm(given["input"], hx, **options)
    assert all(map(torch.equal, lstm.state.read(), before))


@every_mode
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_every_weight_is_refused(steps, grad, name):
    lstm = make(dtype=torch.float32)
    x = noise(steps, 2, 3, dtype=torch.float32)
    lstm(x)
    before = lstm.state.read()
    weight = getattr(lstm, name)
    weight.data = freed(weight.data)
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=f"{name} has no memory"):
        lstm(x)
    assert all(map(torch.equal, lstm.state.read(), before))


@every_mode
def test_a_state_is_refused(steps, grad):
    lstm = make(dtype=torch.float32)
    x = noise(steps, 2, 3, dtype=torch.float32)
    for name in ("h", "c"):
        state = lstm.new_state(2)
        setattr(state, name, freed(getattr(state, name)))
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=f"state's {name}"):
            lstm(x, state=state)
        for act in (state.read, state.reset, lambda s=state: s.write((x, x))):
            with pytest.raises((RuntimeError, ValueError)):
                act()


def test_what_is_written_into_a_state_is_refused():
    state = make(dtype=torch.float32).new_state(2)
    h = torch.ones(1, 2, 5)
    with pytest.raises(RuntimeError, match="c has no memory"):
        state.write((h, freed(h)))
    assert not state.h.any()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_function_refuses_weights(backend):
    weights = [w.detach() for w in make(dtype=torch.float32).parameters()]
    for k in range(4):
        given = copy.copy(weights)
        given[k] = freed(weights[k])
        with pytest.raises(RuntimeError, match=rf"weights\[{k}\] has no memory"):
            stateful_lstm.lstm(torch.zeros(3, 2, 3), None, given, backend=backend)


@pytest.mark.parametrize("steps", [4, 600])
def test_a_weight_that_goes_between_forward_and_backward_is_refused(steps):
    lstm = make(dtype=torch.float32, stateful=False)
    y, _ = lstm(noise(steps, 2, 3, dtype=torch.float32).requires_grad_())
    lstm.weight_hh_l0.data.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="weight_hh has no memory"):
        y.sum().backward()


def test_the_operators_refuse_what_they_are_given():
    h, c = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    with pytest.raises(RuntimeError, match="h has no memory"):
        operators.state_gather(freed(h), c, None)
    with pytest.raises(RuntimeError, match="c_n has no memory"):
        operators.state_scatter_(h, c, None, h, freed(c))
    with pytest.raises(RuntimeError, match="x has no memory"):
        operators.state_copy(freed(h))


@pytest.mark.parametrize("library", [True, False], ids=["library", "python"])
def test_the_first_freed_tensor_is_found_among_others(library):
    first_freed = operators.first_freed if library else operators._first_freed
    gone, whole = freed(torch.ones(2)), torch.ones(3)
    others = (None, 3, whole, whole[:0], torch.ones(2, device="meta"))
    others += (torch.ones(2).to_sparse(), torch._efficientzerotensor((2,)))
    assert first_freed(others) == -1
    assert first_freed((*others, gone, gone)) == len(others)
    assert first_freed((whole[1:], torch.nn.Parameter(gone))) == 1
    assert first_freed((freed(torch.ones(0)),)) == -1


def test_a_selection_and_a_state_that_moves_or_is_copied_are_refused():
    lstm = make(dtype=torch.float32)
    lstm.allocate_state(3)
    mask = torch.zeros(3, dtype=torch.bool)
    for act in (lstm.reset_state, lstm.state.read):
        with pytest.raises(RuntimeError, match="the selection has no memory"):
            act(freed(mask))
    lstm.state.h = freed(lstm.state.h)
    for act in (lstm.double, lambda: copy.deepcopy(lstm)):
        with pytest.raises(RuntimeError, match="the state's h has no memory"):
            act()
