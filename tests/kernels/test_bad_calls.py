"""Bad calls raise the errors of nn.LSTM, or better ones, and never reach a kernel."""

import pytest
import torch
from comparisons import (
    MARKS,
    twin,
)
from parity_support import BACKENDS, B, H, I, T
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytestmark = MARKS


ok = torch.randn(T, B, I)
BAD_CALLS = {
    "input of rank 1": (torch.randn(I), None),
    "input of rank 4": (torch.randn(1, T, B, I), None),
    "input too wide": (torch.randn(T, B, I + 1), None),
    "unbatched input too wide": (torch.randn(T, I + 1), None),
    "input of another float": (ok.double(), None),
    "input of half precision": (ok.bfloat16(), None),
    "input of integers": (torch.ones(T, B, I, dtype=torch.int64), None),
    "input elsewhere": (torch.randn(T, B, I, device="meta"), None),
    "no steps": (torch.randn(0, B, I), None),
    "h of another batch": (ok, (torch.zeros(1, B + 1, H), torch.zeros(1, B, H))),
    "c of another batch": (ok, (torch.zeros(1, B, H), torch.zeros(1, B + 1, H))),
    "h too wide": (ok, (torch.zeros(1, B, H + 1), torch.zeros(1, B, H))),
    "c too wide": (ok, (torch.zeros(1, B, H), torch.zeros(1, B, H + 1))),
    "h of another depth": (ok, (torch.zeros(2, B, H), torch.zeros(2, B, H))),
    "h unbatched, input batched": (ok, (torch.zeros(1, H), torch.zeros(1, H))),
    "h batched, input unbatched": (ok[:, 0], (torch.zeros(1, 1, H), torch.zeros(1, 1, H))),
    "h of another float": (ok, (torch.zeros(1, B, H).double(), torch.zeros(1, B, H))),
    "c of another float": (ok, (torch.zeros(1, B, H), torch.zeros(1, B, H).double())),
    "h elsewhere": (ok, (torch.zeros(1, B, H, device="meta"), torch.zeros(1, B, H))),
}
# Here nn.LSTM raises what its code happens to stumble over, or, if packed, reads out of bounds.
WORSE_CALLS = {
    "one state": (ok, (torch.zeros(1, B, H),)),
    "three states": (ok, (torch.zeros(1, B, H),) * 3),
    "a tensor for a tuple": (ok, torch.zeros(1, B, H)),
    "packed, of another size": (pack_sequence([torch.randn(3, I + 1)]), None),
    "packed, of another float": (pack_sequence([torch.randn(3, I).double()]), None),
    "packed, h of another batch": (
        pack_sequence([torch.randn(3, I)]),
        (torch.zeros(1, B, H), torch.zeros(1, B, H)),
    ),
}


def raised_by(call):
    try:
        call()
    except Exception as e:
        return e
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bad_calls_raise_what_nn_lstm_raises(case, training):
    lstm = nn.LSTM(I, H).train(training)
    ours = twin(lstm, stateful=False)
    with torch.set_grad_enabled(training):
        theirs = raised_by(lambda: lstm(*BAD_CALLS[case]))
        mine = raised_by(lambda: ours(*BAD_CALLS[case]))
    assert type(mine) is type(theirs), f"{mine!r} where nn.LSTM raises {theirs!r}"
    assert len(str(mine)) > 20


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("case", [c for c in BAD_CALLS if c != "no steps"])
def test_bad_calls_of_the_function_raise_what_nn_lstm_raises(case, backend):
    lstm = nn.LSTM(I, H)
    x, hx = BAD_CALLS[case]
    theirs = raised_by(lambda: lstm(x, hx))
    with pytest.raises((ValueError, RuntimeError, TypeError)) as caught:
        stateful_lstm.lstm(x, hx, list(lstm.parameters()), backend=backend)
    assert type(caught.value) is type(theirs), f"{caught.value!r}, nn.LSTM: {theirs!r}"


@pytest.mark.parametrize("case", WORSE_CALLS)
@pytest.mark.parametrize("stateful", [False, True])
def test_calls_that_nn_lstm_does_not_check_are_refused(case, stateful):
    lstm = StatefulLSTM(I, H, stateful=stateful)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        lstm(*WORSE_CALLS[case])
    assert lstm.state is None


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("fault", ["too few", "too many", "transposed", "double"])
def test_bad_weights_are_refused(fault, backend):
    weights = list(nn.LSTM(I, H).parameters())
    bad = {
        "too few": weights[:3],
        "too many": [*weights, *weights],
        "transposed": [weights[0].t(), *weights[1:]],
        "double": [weights[0], weights[1].double(), *weights[2:]],
    }[fault]
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        stateful_lstm.lstm(ok, None, bad, backend=backend)


@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_size": 0},
        {"hidden_size": 4.0},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"dropout": True},
        {"proj_size": -1},
        {"proj_size": H},
    ],
    ids=str,
)
def test_bad_settings_raise_what_nn_lstm_raises(arguments):
    keywords = {"input_size": I, "hidden_size": H} | arguments
    theirs = raised_by(lambda: nn.LSTM(**keywords))
    with pytest.raises(type(theirs)):
        StatefulLSTM(**keywords)


def test_dropout_in_one_layer_warns_as_nn_lstm_does():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        StatefulLSTM(I, H, dropout=0.5)


def test_a_backend_that_is_not_there_says_why():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    lstm = nn.LSTM(I, H)
    with pytest.raises(RuntimeError, match=r"(?i)cuda"):
        stateful_lstm.lstm(ok, None, list(lstm.parameters()), backend="cuda")


@pytest.mark.parametrize("backend", ["opencl", "", None])
def test_an_unknown_backend_is_refused(backend):
    lstm = nn.LSTM(I, H)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        stateful_lstm.lstm(ok, None, list(lstm.parameters()), backend=backend)
