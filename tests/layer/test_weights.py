"""The next call uses weights that were changed behind the layer's back, by any means."""

import copy

import pytest
import torch
from state_support import (
    by_hand,
    call,
    close,
    every_mode,
    make,
    noise,
    plain,
    same_bits,
)
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


def in_place(lstm):
    with torch.no_grad():
        lstm.weight_hh_l0.mul_(-1)


def through_data(lstm):
    lstm.weight_hh_l0.data.mul_(-1)
    lstm.bias_ih_l1.data = lstm.bias_ih_l1.data + 1


def loaded(lstm):
    lstm.load_state_dict(make(seed=9, num_layers=2).state_dict())


def replaced(lstm):
    lstm.weight_ih_l1 = nn.Parameter(-lstm.weight_ih_l1.detach())


def an_optimizer_step(lstm):
    with lstm.preserve_state():
        lstm(noise(2, 4, 3))[0].sum().backward()
    torch.optim.SGD(lstm.parameters(), lr=1.0).step()


def cast(lstm):
    lstm.float()
    lstm.double()


def parametrized(lstm):
    weight_norm(lstm, "weight_hh_l0")
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)


def flat_in_memory(lstm):
    """Weights that are no longer contiguous."""
    lstm.weight_hh_l0.data = lstm.weight_hh_l0.data.t().contiguous().t().neg()


@every_mode
@pytest.mark.parametrize(
    "edit",
    [in_place, through_data, loaded, replaced, an_optimizer_step, cast, parametrized,
     flat_in_memory],
)  # fmt: skip
def test_weights_changed_by_any_road_are_seen_by_the_next_call(edit, steps, grad):
    lstm = make(num_layers=2)
    x = noise(steps, 4, 3)
    for _ in range(3):  # whatever is cached is cached now
        call(lstm, x, grad)
    start = lstm.state.read()
    edit(lstm)
    y, _ = call(lstm, x, grad)
    close(y, by_hand(lstm, x, start)[0])
    if edit is not cast:
        assert not torch.allclose(y, by_hand(make(num_layers=2), x, start)[0])


@every_mode
def test_weights_given_by_functional_call_are_used_for_that_call_alone(steps, grad):
    lstm, other = make(num_layers=2), make(seed=9, num_layers=2)
    x = noise(steps, 4, 3)
    call(lstm, x, grad)
    weights = {name: p.detach().requires_grad_() for name, p in other.named_parameters()}
    start = lstm.state.read()
    with torch.set_grad_enabled(grad):
        y, _ = torch.func.functional_call(lstm, weights, (x,))
    close(y, plain(other)(x, start)[0])
    if grad:
        y.square().sum().backward()
        assert all(weight.grad is not None for weight in weights.values())
        assert all(p.grad is None for p in lstm.parameters())
    start = lstm.state.read()
    close(call(lstm, x, grad)[0], plain(lstm)(x, start)[0])


def test_a_weight_normed_layer_can_be_deep_copied():
    theirs = copy.deepcopy(weight_norm(plain(make()), "weight_hh_l0"))
    ours = weight_norm(make(), "weight_hh_l0")
    ours(noise(3, 4, 3))
    twin = copy.deepcopy(ours)
    assert list(twin.state_dict()) == list(theirs.state_dict())
    assert same_bits(twin(noise(3, 4, 3))[0], ours(noise(3, 4, 3))[0])


def test_a_weight_normed_layer_trains_its_own_parts():
    lstm = weight_norm(make(), "weight_hh_l0")
    lstm(noise(3, 4, 3), (noise(1, 4, 5), noise(1, 4, 5)))[0].sum().backward()
    assert lstm.parametrizations.weight_hh_l0.original0.grad.any()
    assert lstm.parametrizations.weight_hh_l0.original1.grad is not None
