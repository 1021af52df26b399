"""TensorBoard: scalars, histograms of weights and state, and the graph of a model."""

import pytest
import torch
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self, stateful):
        super().__init__()
        self.lstm = StatefulLSTM(3, 5, stateful=stateful)
        self.out = nn.Linear(5, 1)

    def forward(self, x):
        return self.out(self.lstm(x)[0])


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0})  # keep all
    accumulator.Reload()
    return accumulator


def test_a_training_loop_is_logged_with_weights_and_state(tmp_path):
    model = Net(stateful=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses, sums = [], []
    with SummaryWriter(tmp_path) as writer:
        for step in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 2, 3)).square().mean()
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss, step)
            for name, parameter in model.named_parameters():
                writer.add_histogram(name, parameter, step)
            for name, (h, c) in stateful_lstm.get_state(model).items():
                writer.add_histogram(f"{name}/h", h, step)
                writer.add_histogram(f"{name}/c", c, step)
            losses.append(loss.item())
            sums.append(model.lstm.state.c.sum().item())
    seen = events(tmp_path)
    assert [event.value for event in seen.Scalars("loss")] == pytest.approx(losses)
    names = {name for name, _ in model.named_parameters()} | {"lstm/h", "lstm/c"}
    assert set(seen.Tags()["histograms"]) == names
    logged = [event.histogram_value.sum for event in seen.Histograms("lstm/c")]
    assert logged == pytest.approx(sums) and len(set(sums)) == 3


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_graph_is_drawn(tmp_path, grad):
    with torch.set_grad_enabled(grad), SummaryWriter(tmp_path) as writer:
        writer.add_graph(Net(stateful=False), torch.randn(4, 2, 3))
    graph = str(events(tmp_path).Graph())
    assert "StatefulLSTM[lstm]" in graph and "stateful_lstm::lstm_forward" in graph


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_graph_of_a_stateful_model_is_drawn_while_it_is_not(tmp_path):
    """torch.jit.trace is behind it, which would make a constant of the state."""
    model, x = Net(stateful=True), torch.randn(4, 2, 3)
    model(x)
    before = stateful_lstm.get_state(model)
    with SummaryWriter(tmp_path) as writer:
        with pytest.raises(RuntimeError, match=r"torch.jit.trace cannot carry a resident state"):
            writer.add_graph(model, x)
        model.lstm.stateful = False
        writer.add_graph(model, x)
        model.lstm.stateful = True
    assert "StatefulLSTM[lstm]" in str(events(tmp_path).Graph())
    torch.testing.assert_close(stateful_lstm.get_state(model), before, rtol=0, atol=0)
