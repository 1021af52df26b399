"""A trainer object: update() enqueues, current_loss() waits, and batches come from a generator.

The design follows the Wolfram Language's trainer objects: gen(i) makes the next batch while the
device may still work on the last batch; a callback may stop training; the state can be read at any
time.

    python examples/trainer_object.py [--quick] [--out DIR]
"""

import matplotlib.pyplot as plt
import torch
from _common import options, save
from torch import Tensor, nn

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import Window
from stateful_lstm.training import Trainer

ROWS, STEPS = 8, 20


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        out: Tensor = self.head(y)
        return out


def gen(i: int) -> Window:
    """Batch i of endless signals: noisy waves; the target is the clean next value."""
    t = torch.arange(i * STEPS, (i + 1) * STEPS + 1).view(-1, 1, 1)
    clean = torch.sin(t * torch.linspace(0.1, 0.4, ROWS).view(1, -1, 1))
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(i))
    everywhere = torch.ones(STEPS, ROWS, dtype=torch.bool)
    lengths = torch.full((ROWS,), STEPS)
    return Window(noisy[:-1], clean[1:], ~everywhere, lengths, everywhere)


def main() -> None:
    settings = options("A trainer object", "fewer updates")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    updates = 150 if settings.quick else 600
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates + 100)
    trainer = Trainer(model, optimizer, nn.MSELoss(), clip_grad_norm=1.0, scheduler=schedule)

    losses = []
    window = gen(0)
    for i in range(updates):
        trainer.update(window)  # on CUDA this returns at once,
        window = gen(i + 1)  # so this runs during the device's work,
        losses.append(trainer.current_loss())  # and this waits for it
    print(f"after {trainer.updates} updates the loss is {losses[-1]:.4f}, from {losses[0]:.4f}")

    state = model.lstm.state
    assert state is not None
    h, c = state.read()
    print(f"the state, read between two updates: h {tuple(h.shape)}, c {tuple(c.shape)}")

    # fit continues with the next batches, until a callback stops it.
    before, usual, good = trainer.updates, sum(losses[-20:]) / 20, []

    def enough(trainer: Trainer) -> str | None:
        good.append(trainer.current_loss() < usual)
        return "stop" if sum(good) == 10 else None

    trainer.fit([gen(i) for i in range(before, before + 100)], progress=False, callback=enough)
    assert 10 <= trainer.updates - before < 100 and sum(good) == 10
    print(
        f"fit ended after {trainer.updates - before} more updates, at {trainer.current_loss():.4f}"
    )

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.semilogy(losses, color="#1f6fb4", lw=0.9)
    axes.set(title="current_loss() after each update()", xlabel="update", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, settings.out, "trainer_object.png")
    assert sum(losses[-20:]) < sum(losses[:20]) / 2


if __name__ == "__main__":
    main()
