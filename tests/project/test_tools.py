"""Tools that inspect a module: torch.profiler, torchinfo and safetensors.

DataLoader with workers around ``ContinuousBatches`` is in tests/training.
"""

import pytest
import torch
from convert_nets import LanguageModel
from torch import nn
from torch.profiler import ProfilerActivity, profile

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytestmark = pytest.mark.usefixtures("one_thread")


def profiled(call):
    """How often each of our operators ran, by the name that the profiler shows."""
    call()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        call()
    ours = [row for row in seen.key_averages() if row.key.startswith("stateful_lstm::")]
    return {row.key.removeprefix("stateful_lstm::"): row.count for row in ours}


def test_the_profiler_names_the_operators():
    lstm = StatefulLSTM(3, 5, num_layers=2)
    x = torch.randn(4, 2, 3)
    training = profiled(lambda: lstm(x)[0].sum().backward())
    assert training == {"lstm_forward": 2, "lstm_gradients": 2}  # once a layer
    lstm.allocate_state(9)
    slots = torch.tensor([7, 2])
    training = profiled(lambda: lstm(x, state_indices=slots)[0].sum().backward())
    assert training == {
        "state_gather": 1, "lstm_forward": 2, "state_scatter_": 1, "lstm_gradients": 2,
    }  # fmt: skip
    lstm.allocate_state(2)
    with torch.no_grad():
        assert profiled(lambda: lstm(x)) == {"lstm_step_": 1}
        assert profiled(lambda: lstm(x[:1])) == {"lstm_step_": 1}
        stateless = stateful_lstm.convert(nn.LSTM(3, 5), stateful=False)
        assert profiled(lambda: stateless(x)) == {"lstm_forward": 1}


class Tagger(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.lstm = layer(3, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 4)

    def forward(self, x):
        return self.out(self.lstm(x)[0])


def test_torchinfo_shows_what_it_shows_of_nn_lstm():
    torchinfo = pytest.importorskip("torchinfo")
    theirs, ours = (
        torchinfo.summary(Tagger(layer), (2, 6, 3), device="cpu", verbose=0)
        for layer in (nn.LSTM, StatefulLSTM)
    )
    for name in ("total_params", "trainable_params", "total_mult_adds", "total_output_bytes"):
        assert getattr(ours, name) == getattr(theirs, name) > 0
    words = str(ours).replace("StatefulLSTM", "LSTM").split()
    assert words == str(theirs).split() and "StatefulLSTM" in str(ours)


def test_torchinfo_can_leave_the_state_alone():
    """It calls the model with a batch of its own."""
    torchinfo = pytest.importorskip("torchinfo")
    model = Tagger(StatefulLSTM)
    model(torch.randn(3, 6, 3))
    before = model.lstm.state.read()
    with stateful_lstm.preserve_state(model):
        stateful_lstm.reset_state(model)  # so that the batch may have another size
        torchinfo.summary(model, (2, 6, 3), device="cpu", verbose=0)
    torch.testing.assert_close(model.lstm.state.read(), before, rtol=0, atol=0)


def test_safetensors_hold_the_weights(tmp_path):
    torch_safetensors = pytest.importorskip("safetensors.torch")
    ours, theirs = Tagger(StatefulLSTM), Tagger(nn.LSTM)
    x = torch.randn(2, 6, 3)
    y = ours(x)  # and a resident state, which is in no state_dict
    torch_safetensors.save_file(ours.state_dict(), tmp_path / "weights.safetensors")
    weights = torch_safetensors.load_file(tmp_path / "weights.safetensors")
    theirs.load_state_dict(weights)
    torch.testing.assert_close(theirs(x), y)
    fresh = Tagger(StatefulLSTM)
    fresh.load_state_dict(weights)
    assert torch.equal(fresh(x), y)


def test_safetensors_hold_a_model_with_tied_weights(tmp_path):
    torch_safetensors = pytest.importorskip("safetensors.torch")
    ours = stateful_lstm.convert(LanguageModel()).eval()
    (words,) = ours.example()
    y = ours(words)
    torch_safetensors.save_model(ours, str(tmp_path / "model.safetensors"))
    fresh = stateful_lstm.convert(LanguageModel()).eval()
    missing = torch_safetensors.load_model(fresh, str(tmp_path / "model.safetensors"))
    assert not any(missing) and fresh.out.weight is fresh.embedding.weight
    assert torch.equal(fresh(words), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_safetensors_hold_the_resident_state(tmp_path, dtype):
    """A flat file: two entries for each layer. In bfloat16 c is float32."""
    torch_safetensors = pytest.importorskip("safetensors.torch")
    model = Tagger(StatefulLSTM).to(dtype)
    x = torch.randn(2, 6, 3).to(dtype)
    model(x)
    flat = {
        f"{name}.{part}": tensor
        for name, hc in stateful_lstm.get_state(model).items()
        for part, tensor in zip("hc", hc, strict=True)
    }
    torch_safetensors.save_file(flat, tmp_path / "state.safetensors")
    loaded = torch_safetensors.load_file(tmp_path / "state.safetensors")
    names = {key.rpartition(".")[0] for key in loaded}
    fresh = Tagger(StatefulLSTM).to(dtype)
    fresh.load_state_dict(model.state_dict())
    stateful_lstm.set_state(fresh, {n: (loaded[f"{n}.h"], loaded[f"{n}.c"]) for n in names})
    assert fresh.lstm.state.c.dtype == torch.float32
    assert torch.equal(fresh(x), model(x))
