"""A critic with a gradient penalty: gradients of gradients through the layer and its state.

The critic scores a series at every step, window after window, and learns higher scores for noisy
sines than for random walks. The difference of the scores measures the distance of the two sources,
if the critic's slope stays at 1 (Gulrajani et al. 2017, "Improved training of Wasserstein GANs").
The loss then contains a gradient, which training differentiates again. Without the penalty the
slope keeps growing.

    python examples/gradient_penalty.py [--quick] [--out DIR]

(cuDNN, the backend of nn.LSTM on a GPU, has no second derivative.)
"""

import math

import matplotlib.pyplot as plt
import torch
from _common import options, save
from torch import Tensor, nn

from stateful_lstm import StatefulLSTM, reset_state

ROWS, WINDOW, WINDOWS = 16, 20, 5


class Critic(nn.Module):
    """A score for every step of a series (T, B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, 24)
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        out: Tensor = self.head(y)
        return out


def sources() -> tuple[Tensor, Tensor]:
    """Noisy sines, and random walks of the same spread: (T, B, 1) each."""
    steps = torch.arange(WINDOW * WINDOWS).view(-1, 1, 1)
    sines = torch.sin(0.3 * steps + 2 * math.pi * torch.rand(1, ROWS, 1))
    walks = torch.randn(WINDOW * WINDOWS, ROWS, 1).cumsum(0) * 0.1
    return sines + 0.1 * torch.randn_like(sines), walks


def slope(critic: Critic, x: Tensor) -> Tensor:
    """The norm of the score's gradient with respect to each row's inputs, (B,); differentiable."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).mean(0).sum(), x, create_graph=True)
    steepness: Tensor = torch.linalg.vector_norm(gradient * WINDOW**0.5, dim=(0, 2))
    return steepness


def train(penalty: float, updates: int) -> tuple[list[float], list[float]]:
    """The distance of the sources and the critic's slope after every pass over the windows."""
    torch.manual_seed(0)
    critic = Critic()
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    distances, slopes = [], []
    for _ in range(updates):
        real, made = sources()
        mixed = torch.rand(1, ROWS, 1)
        joined = torch.cat([real, made, mixed * real + (1 - mixed) * made], 1)  # 3 B rows
        reset_state(critic)
        distance = steepness = 0.0
        for x in joined.split(WINDOW):
            # The penalty starts from the window's own state, and does not change it.
            with critic.lstm.preserve_state():
                steep = slope(critic, x)[-ROWS:]
            score = critic(x)
            apart = score[:, :ROWS].mean() - score[:, ROWS : 2 * ROWS].mean()
            loss = -apart + penalty * (steep - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            distance += float(apart.detach()) / WINDOWS
            steepness += float(steep.detach().mean()) / WINDOWS
        distances.append(distance)
        slopes.append(steepness)
    return distances, slopes


def main() -> None:
    settings = options("A critic with a gradient penalty", "fewer updates")
    updates, late = 60 if settings.quick else 200, 10
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    last: dict[str, list[float]] = {}
    for penalty in (10.0, 0.0):
        name = "with the penalty" if penalty else "without"
        distances, slopes = train(penalty, updates)
        last[name] = slopes[-late:]  # a single pass is too noisy
        print(f"{name:17} distance {distances[-1]:8.2f}, slope {slopes[-1]:8.2f}")
        for axis, values in zip(axes, (distances, slopes), strict=True):
            axis.plot(values, label=name)
    for axis, label in zip(axes, ("distance of the scores", "slope"), strict=True):
        axis.set(xlabel="passes", ylabel=label, yscale="symlog")
        axis.legend()
    save(figure, settings.out, "gradient_penalty.png")
    assert max(abs(value - 1) for value in last["with the penalty"]) < 0.3
    assert max(last["without"]) > 1.5


if __name__ == "__main__":
    main()
