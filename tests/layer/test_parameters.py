"""Parameters, their first values, state_dict and repr are those of nn.LSTM."""

import pytest
import torch
from comparisons import (
    MARKS,
    assert_close,
    module_results,
    tolerance,
    twin,
)
from parity_support import CONFIGS, B, H, I, T, configs, dense, dtypes
from torch import nn

from stateful_lstm import StatefulLSTM

pytestmark = MARKS


@configs
@dtypes
def test_the_same_seed_gives_the_same_parameters(config, dtype):
    torch.manual_seed(5)
    theirs = nn.LSTM(I, H, dtype=dtype, **config)
    torch.manual_seed(5)
    ours = StatefulLSTM(I, H, dtype=dtype, **config)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name


@configs
def test_a_state_dict_loads_strictly_into_either_class(config):
    theirs, ours = nn.LSTM(I, H, **config), StatefulLSTM(I, H, **config)
    ours(dense(ours))  # a resident state must not show
    back = nn.LSTM(I, H, **config)
    back.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = dense(theirs)
    assert ours.all_weights[0][0].equal(theirs.all_weights[0][0])
    assert not back(x)[0].equal(theirs(x)[0])
    back.load_state_dict(ours.state_dict())
    assert back(x)[0].equal(theirs(x)[0])


@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_unit_forget_bias_adds_one_to_the_forget_gate_alone(config):
    torch.manual_seed(5)
    plain = StatefulLSTM(I, H, **config).state_dict()
    torch.manual_seed(5)
    raised = StatefulLSTM(I, H, unit_forget_bias=True, **config).state_dict()
    for name in plain:
        if name.startswith("weight"):
            assert raised[name].equal(plain[name])
    for name in [n for n in plain if n.startswith("bias_ih")]:
        other = name.replace("ih", "hh")
        added = raised[name] + raised[other] - plain[name] - plain[other]
        expected = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(H)
        torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("config", [*CONFIGS.values(), {"num_layers": 2, "dropout": 0.5}], ids=str)
def test_repr_is_nn_lstms(config):
    assert repr(StatefulLSTM(I, H, **config)) == "Stateful" + repr(nn.LSTM(I, H, **config))


def test_it_is_an_rnn_base_in_lstm_mode():
    lstm = StatefulLSTM(I, H)
    assert isinstance(lstm, nn.RNNBase)
    assert lstm.mode == "LSTM"
    assert lstm.flatten_parameters() is None


def test_float_conversions_of_the_layer():
    lstm = nn.LSTM(I, H, 2)
    ours = twin(lstm, stateful=False).double()
    x = dense(ours)
    truth = module_results(lstm.double(), x)
    assert_close(module_results(ours, x), truth, tolerance(x.dtype, 2 * T, 4 * H + T * B))
