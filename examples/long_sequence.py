"""One window of 100,000 steps, trained within a budget of memory: "mirroring" in other systems.

Backward needs the activations of every step. `recompute="auto"` keeps as many of them as
`set_memory_budget` allows and recomputes the rest, with the same gradients. The example counts and
plots the bytes that each mode keeps.

    python examples/long_sequence.py [--quick] [--out DIR]
"""

import matplotlib.pyplot as plt
import torch
from _common import options, save
from torch import Tensor, nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

HIDDEN, MiB = 32, 1 << 20


class Model(nn.Module):
    def __init__(self, recompute: str) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, HIDDEN, recompute=recompute, stateful=False)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        out: Tensor = self.head(y)
        return out


def train(recompute: str, x: Tensor, target: Tensor, updates: int) -> tuple[int, list[float]]:
    """The bytes that the layer keeps for backward, and the losses of a few updates."""
    torch.manual_seed(0)
    model = Model(recompute)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses, kept = [], 0
    for _ in range(updates):
        parts: dict[int, int] = {}

        def look(t: Tensor, parts: dict[int, int] = parts) -> Tensor:
            parts[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(look, lambda t: t):
            loss = nn.functional.mse_loss(model(x), target)
        kept = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return kept, losses


def main() -> None:
    settings = options("A long sequence", "a tenth of the steps")
    steps = 10_000 if settings.quick else 100_000
    budget = 20 * MiB * steps // 100_000
    torch.manual_seed(0)
    x = torch.randn(steps, 1, 1)
    target = x.cumsum(0) / torch.arange(1, steps + 1).sqrt().view(-1, 1, 1)
    stateful_lstm.set_memory_budget(budget)
    found = {mode: train(mode, x, target, 2) for mode in ("none", "gates", "segments", "auto")}
    stateful_lstm.set_memory_budget(1 << 30)  # the default

    print(f"one window of {steps:,} steps, {HIDDEN} units, a budget of {budget / MiB:.0f} MiB:")
    for mode, (kept, losses) in found.items():
        print(f"  {mode:10}{kept / MiB:7.1f} MiB kept, loss {losses[0]:.4f}, then {losses[1]:.4f}")
        torch.testing.assert_close(losses, found["none"][1], atol=1e-5, rtol=1e-4)
    assert found["auto"][0] == found["segments"][0] < budget < found["gates"][0]

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    sizes = [kept / MiB for kept, _ in found.values()]
    axes.bar(list(found), sizes, color=["#999999", "#c8641b", "#1f6fb4", "#1f6fb4"], width=0.6)
    axes.axhline(budget / MiB, color="#333333", lw=1, ls="--", label="the budget")
    axes.set(title=f"Kept for one window of {steps:,} steps", ylabel="MiB")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, settings.out, "long_sequence.png")


if __name__ == "__main__":
    main()
