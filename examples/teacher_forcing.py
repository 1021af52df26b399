"""One step at a time: teacher forcing, and a loss over a horizon of the model's own predictions.

Calls of a single step carry the state, and gradients then reach through one step. To reach through
k steps, pass `hx` from call to call: the result is the same as one call of k steps.

A model is first trained on true inputs, with an update at every step. Then one copy continues so,
and another copy gets a loss over a horizon: eight steps of true inputs, and seven steps of its own
predictions. Both take about as long. At the end both predict new waves from their own outputs.

    python examples/teacher_forcing.py [--quick] [--out DIR]
"""

import copy

import matplotlib.pyplot as plt
import torch
from _common import options, save
from torch import Tensor, nn
from torch.testing import assert_close

from stateful_lstm import StatefulLSTM

UNITS, RATE = 48, 5e-3
ROWS, SEEN, ALONE = 16, 200, 40  # waves, their steps, and the steps from the model's own outputs
HORIZON = 8


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, UNITS)
        self.head = nn.Linear(UNITS, 1)

    def step(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (1, B, 1). Without hx the call continues from the last call's state."""
        y, state = self.lstm(x, hx)
        return self.head(y), state


def waves() -> Tensor:
    """(steps, ROWS, 1): sums of two sines with random phases."""
    t = torch.arange(SEEN + ALONE).view(-1, 1, 1)
    phases = torch.rand(2, 1, ROWS, 1) * 6.28
    return torch.sin(0.2 * t + phases[0]) + 0.5 * torch.sin(0.31 * t + phases[1])


def gradients_are_those_of_one_call(model: Model, wave: Tensor) -> None:
    """Compares k calls that pass hx on with one call of k steps."""
    weights = list(model.parameters())
    zero = torch.zeros(1, ROWS, UNITS)
    state, outputs = (zero, zero), []
    for t in range(HORIZON):
        output, state = model.step(wave[t : t + 1], state)
        outputs.append(output)
    at_once = model.head(model.lstm(wave[:HORIZON], (zero, zero))[0])
    assert_close(
        torch.autograd.grad(torch.cat(outputs).square().mean(), weights),
        torch.autograd.grad(at_once.square().mean(), weights),
    )
    print(f"gradients through {HORIZON} calls by hx: those of one call of {HORIZON} steps")


class Updates:
    """Adam with a learning rate that decreases to zero."""

    def __init__(self, model: Model, rate: float, epochs: int) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs)

    def update(self, output: Tensor, target: Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(output, target).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def train_on_true_inputs(model: Model, wave: Tensor, epochs: int) -> None:
    """Teacher forcing: an update at every step. The layer carries the state from call to call."""
    updates = Updates(model, RATE, epochs)
    for _ in range(epochs):
        model.lstm.reset_state()
        for t in range(len(wave) - 1):
            output, _ = model.step(wave[t : t + 1])
            updates.update(output, wave[t + 1 : t + 2])
        updates.schedule.step()


def train_on_a_horizon(model: Model, wave: Tensor, epochs: int) -> None:
    """Eight true inputs, then own predictions: one update, with gradients through all steps."""
    updates = Updates(model, RATE, epochs)
    for _ in range(epochs):
        model.lstm.reset_state()
        for t in range(0, len(wave) - 2 * HORIZON + 1, HORIZON):
            seen, state = model.step(wave[t : t + HORIZON])  # true inputs, in one call
            output, outputs = seen[-1:], [seen]
            # The next update continues from the state after the true inputs.
            with model.lstm.preserve_state():
                for _ in range(HORIZON - 1):
                    output, state = model.step(output, state)
                    outputs.append(output)
            updates.update(torch.cat(outputs), wave[t + 1 : t + 2 * HORIZON])
        updates.schedule.step()


@torch.no_grad()
def predict_alone(model: Model, wave: Tensor) -> Tensor:
    """Reads the waves, then runs on its own outputs."""
    model.lstm.reset_state()
    output = model.head(model.lstm(wave)[0])[-1:]
    outputs = [output]
    for _ in range(ALONE - 1):
        output, _ = model.step(output)
        outputs.append(output)
    return torch.cat(outputs)


def main() -> None:
    settings = options("Step by step", "fewer epochs")
    torch.manual_seed(0)
    learnt, fresh = waves()[:SEEN], waves()
    forced = Model()
    gradients_are_those_of_one_call(forced, learnt)

    epochs = 4 if settings.quick else 20
    train_on_true_inputs(forced, learnt, epochs // 2)
    own = copy.deepcopy(forced)
    train_on_true_inputs(forced, learnt, epochs)
    train_on_a_horizon(own, learnt, epochs * 2)

    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    axes.plot(range(SEEN - 40, SEEN + ALONE), fresh[SEEN - 40 :, 0], color="#333333", label="wave")
    errors = []
    for name, model, colour in (
        ("true inputs", forced, "#c8641b"),
        ("a horizon", own, "#1f6fb4"),
    ):
        alone = predict_alone(model, fresh[:SEEN])
        errors.append(float((alone - fresh[SEEN:]).square().mean().sqrt()))
        print(f"trained on {name:12} off by {errors[-1]:.3f} over {ALONE} steps alone")
        axes.plot(range(SEEN, SEEN + ALONE), alone[:, 0], color=colour, label=f"trained on {name}")
    axes.axvline(SEEN - 0.5, color="#999999", lw=0.8)
    axes.set(title=f"Alone from step {SEEN} on, a wave not seen in training", xlabel="step")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, settings.out, "teacher_forcing.png")
    assert errors[1] < errors[0]


if __name__ == "__main__":
    main()
