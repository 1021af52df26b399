"""Copies, pickles and replicas: a copy runs its own weights on its own state."""

import copy
import io
import pickle

import pytest
import torch
from state_support import make, noise
from torch import nn
from torch.optim.swa_utils import AveragedModel

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.usefixtures("fresh_compiler"),
]


def compiled(layer):
    layer.compile(backend="eager")
    return layer


def converted(**options):
    return stateful_lstm.convert(nn.LSTM(3, 5, dtype=torch.float64, **options))


def parametrized():
    return stateful_lstm.convert(
        nn.utils.parametrizations.weight_norm(nn.LSTM(3, 5, dtype=torch.float64), "weight_hh_l0")
    )


KINDS = {"plain": make, "converted": converted, "parametrized": parametrized}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def assert_runs_by_itself(new, original, x):
    """Other weights, another result; and the original's state does not move."""
    before = original.state.read()
    new.reset_state()
    with torch.no_grad():
        for p in new.parameters():
            p.mul_(0.5)
    y = new(x)[0]
    assert all(map(torch.equal, original.state.read(), before))
    original.reset_state()
    assert not torch.allclose(y, original(x)[0])


@every_kind
def test_a_deepcopy_of_a_compiled_layer_is_a_layer_by_itself(kind):
    layer, x = compiled(kind()), noise(4, 2, 3)
    layer(x)
    new = copy.deepcopy(layer)
    assert type(new) is type(layer)
    torch.testing.assert_close(new(x)[0], layer(x)[0])  # from the state that was copied
    assert_runs_by_itself(new, layer, x)


def test_a_compiled_layer_is_pickled_and_saved_without_its_code_and_state():
    layer, x = compiled(make()), noise(4, 2, 3)
    layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for new in (pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert new.state is None
        layer.reset_state()
        torch.testing.assert_close(new(x)[0], layer(x)[0])
        assert_runs_by_itself(new, layer, x)


def test_an_averaged_model_of_a_compiled_one_averages():
    layer = compiled(make(stateful=False))
    averaged, x = AveragedModel(layer), noise(4, 2, 3)
    before = layer(x)[0]
    averaged.update_parameters(layer)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    torch.testing.assert_close(averaged(x)[0], before)


@every_kind
def test_a_shallow_copy_shares_parameters_and_state(kind):
    layer, x = compiled(kind()), noise(4, 2, 3)
    layer(x)
    new = copy.copy(layer)
    assert new.state is layer.state
    assert all(a is b for a, b in zip(new.parameters(), layer.parameters(), strict=True))
    moved = layer.state.h.clone()
    new(x)
    assert not torch.equal(layer.state.h, moved)
    new.add_module("own", nn.Linear(1, 1)) if kind is not parametrized else None
    new.allocate_state(7)
    assert layer.state.slots == 2


def test_a_model_of_compiled_layers_is_copied_whole():
    model = nn.ModuleDict({"a": compiled(make()), "b": nn.Sequential(compiled(make(1)))})
    x = noise(4, 2, 3)
    for layer in (model["a"], model["b"][0]):
        layer(x)
    new = copy.deepcopy(model)
    assert_runs_by_itself(new["a"], model["a"], x)
    assert_runs_by_itself(new["b"][0], model["b"][0], x)


def test_a_layer_that_was_compiled_as_an_nn_lstm_runs_as_ours():
    layer, x = nn.LSTM(3, 5, dtype=torch.float64), noise(4, 2, 3)
    layer.compile(backend="eager")
    layer(x)
    stateful_lstm.convert(layer)
    first, second = layer(x)[0], layer(x)[0]
    assert not torch.equal(first, second)
    assert_runs_by_itself(copy.deepcopy(layer), layer, x)


def test_a_state_is_pickled_with_what_it_holds():
    layer, x = make(), noise(4, 2, 3)
    layer(x)
    layer.reset_state()
    state = pickle.loads(pickle.dumps(layer.state))
    assert not state.resizable
    assert not state.replaceable or layer.state.replaceable
    layer(x)
    state = pickle.loads(pickle.dumps(layer.state))
    assert torch.equal(state.h, layer.state.h)
    torch.testing.assert_close(make()(x, state=state)[0], layer(x)[0])


def test_replicas_for_data_parallel_carry_no_state_and_are_refused_by_name():
    with pytest.raises(RuntimeError, match=r"DistributedDataParallel, or stateful=False"):
        make()._replicate_for_data_parallel()
    replica = make(stateful=False)._replicate_for_data_parallel()
    assert type(replica) is StatefulLSTM


def test_a_reset_state_that_moves_is_still_resizable_and_one_that_was_used_is_not():
    layer = make()
    layer(noise(4, 2, 3))
    layer.reset_state()
    layer.float()
    assert layer.state.resizable
    x = noise(4, 2, 3, dtype=torch.float32)
    layer(x)
    layer.double()
    assert not layer.state.resizable
