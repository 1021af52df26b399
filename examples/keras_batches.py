"""Keras's own example of stateful=True: 32 sequences of 21 steps, fed ten steps at a time.

The batch (32, 21, 16) enters as steps 0 to 9, to predict steps 1 to 10, and then as steps 10 to 19.
Row i of the second window continues from the state that row i of the first window left.

    python examples/keras_batches.py [--quick] [--out DIR]
"""

import torch
from _common import options
from torch import Tensor, nn
from torch.testing import assert_close

import stateful_lstm
from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches
from stateful_lstm.training import Trainer

ROWS, STEPS, FEATURES, WINDOW = 32, 21, 16, 10


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(FEATURES, 32, batch_first=True)
        self.dense = nn.Linear(32, FEATURES)

    def forward(self, x: Tensor, reset_mask: Tensor | None = None) -> Tensor:
        y, _ = self.lstm(x, reset_mask=reset_mask)
        out: Tensor = self.dense(y)
        return out


def rotations() -> Tensor:
    """Predictable sequences: features that rotate, each row at its own speed."""
    speed = torch.linspace(0.2, 0.8, ROWS).view(ROWS, 1, 1)
    phase = torch.rand(ROWS, 1, FEATURES) * 6
    return torch.sin(speed * torch.arange(STEPS).view(1, STEPS, 1) + phase)


def main() -> None:
    settings = options("Keras's stateful batches", "fewer epochs")
    torch.manual_seed(0)
    data = rotations()
    assert data.shape == (32, 21, 16)

    # The two windows by hand, as in Keras: the target is the input one step later.
    model = Model()
    with torch.no_grad():
        first = model(data[:, 0:10])  # predicts steps 1 to 10
        second = model(data[:, 10:20])  # continues, and predicts steps 11 to 20
        stateful_lstm.reset_state(model)
        whole = model(data[:, 0:20])
    assert_close(torch.cat([first, second], 1), whole)
    print("steps 0-9, then 10-19: the same as steps 0-19 in one call")

    # A batch of another size would read the states of other rows. The error explains the remedies.
    # Here it is a reset, like reset_states() in Keras; then the batch size may change.
    try:
        model(data[:5, 0:10])
    except ValueError as error:
        print(f"five rows are refused: {str(error).split('. ')[0]}")
    else:
        raise AssertionError("the state of 32 rows was given to five")
    stateful_lstm.reset_state(model)
    assert_close(model(data[:5, 0:10]), first[:5])
    stateful_lstm.reset_state(model)

    # The same windows by ContinuousBatches, which begins every row with a reset.
    windows = ContinuousBatches(data, ROWS, WINDOW, batch_first=True)
    w = list(windows)
    assert torch.equal(w[0].input, data[:, 0:10]) and torch.equal(w[1].input, data[:, 10:20])
    assert torch.equal(w[0].target[:, 9], data[:, 10]) and torch.equal(
        w[1].target[:, 9], data[:, 20]
    )
    assert w[0].reset_mask[:, 0].all() and not w[1].reset_mask.any()

    trainer = Trainer(model, torch.optim.Adam(model.parameters(), 1e-2), nn.MSELoss())
    before = trainer.evaluate(windows)  # from zero states; the resident states do not change
    history = trainer.fit(windows, epochs=20 if settings.quick else 200, progress=False)
    after = trainer.evaluate(windows)
    print(f"loss of the first epoch {history[0]:.4f}, of the last {history[-1]:.4f}")
    print(f"evaluated before training {before:.4f}, and after it {after:.4f}")
    assert history[-1] < history[0] / 2 and after < before / 2


if __name__ == "__main__":
    main()
