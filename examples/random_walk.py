"""A random walk, from its steps: a net with state can follow it, a net without state cannot.

The walk is the sum of 1000 steps of +1 or -1. Two LSTM layers of 50 units and a Dense(1) see one
step at a time and predict the level of the walk, so they must remember all earlier steps. With the
state carried from window to window they can; the same net from zero in every window only knows the
steps of this window. Every epoch begins with a reset. Both nets are fitted to this one walk.

    python examples/random_walk.py [--quick] [--out DIR]
"""

import matplotlib.pyplot as plt
import torch
from _common import options, save
from torch import Tensor, nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

STEPS, WINDOW, UNITS = 1000, 100, 50


class Walker(nn.Module):
    """stateful=True is the whole difference between the two nets."""

    def __init__(self, stateful: bool) -> None:
        super().__init__()
        self.first = StatefulLSTM(1, UNITS, unit_forget_bias=True, stateful=stateful)
        self.second = StatefulLSTM(UNITS, UNITS, unit_forget_bias=True, stateful=stateful)
        self.dense = nn.Linear(UNITS, 1)
        # A sum needs a long memory: the first layer's units remember for 1 to 1000 steps, and a
        # longer memory gets a smaller input gate (Tallec and Ollivier, 2018).
        remember = torch.empty(UNITS).uniform_(1, STEPS - 1).log()
        bias = self.first.get_parameter("bias_ih_l0").data
        bias[:UNITS], bias[UNITS : 2 * UNITS] = -remember, remember

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.first(x)
        x, _ = self.second(x)
        out: Tensor = self.dense(x)
        return out


def train(stateful: bool, steps: Tensor, walk: Tensor, epochs: int) -> tuple[list[float], Tensor]:
    """The mean loss of each epoch, and the trained net's prediction of the walk."""
    torch.manual_seed(1)
    model = Walker(stateful)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = []
    for _ in range(epochs):
        stateful_lstm.reset_state(model)
        total = 0.0
        for x, target in zip(steps.split(WINDOW), walk.split(WINDOW), strict=True):
            loss = nn.functional.mse_loss(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.2)  # larger steps diverge
            optimizer.step()
            total += loss.item() * WINDOW / STEPS
        schedule.step()
        losses.append(total)
    stateful_lstm.reset_state(model)
    with torch.no_grad():
        return losses, torch.cat([model(x) for x in steps.split(WINDOW)])


def main() -> None:
    settings = options("A random walk", "fewer epochs")
    torch.manual_seed(0)
    steps = torch.randint(0, 2, (STEPS, 1, 1)) * 2.0 - 1.0
    level = steps.cumsum(0)
    scale = level.std()
    epochs = 50 if settings.quick else 200

    figure, axes = plt.subplots(
        1, 2, figsize=(12, 4.2), width_ratios=(2.4, 1), layout="constrained"
    )
    axes[0].plot(level.flatten(), color="#333333", lw=1.4, label="the walk")
    errors = {}
    for stateful, colour in ((True, "#1f6fb4"), (False, "#c8641b")):
        losses, followed = train(stateful, steps, level / scale, epochs)
        name = "state carried" if stateful else "no state"
        errors[name] = float((followed * scale - level).square().mean().sqrt())
        axes[0].plot((followed * scale).flatten(), color=colour, lw=1, label=name)
        axes[1].semilogy(range(1, epochs + 1), losses, color=colour, label=name)
        print(f"{name:14} off by {errors[name]:.1f} steps (root mean square)")
    axes[0].set(
        title="Two LSTM(50) and Dense(1), from the steps alone", xlabel="step", ylabel="level"
    )
    axes[1].set(title="Training", xlabel="epoch", ylabel="loss")
    for each in axes:
        each.legend(frameon=False)
        each.spines[["top", "right"]].set_visible(False)
    save(figure, settings.out, "random_walk.png")
    assert errors["state carried"] < errors["no state"] / 2


if __name__ == "__main__":
    main()
