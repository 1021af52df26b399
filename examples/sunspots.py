"""A forecast of a real series: the yearly number of sunspots since 1700.

Training uses the years up to 1960, with the state carried from window to window. Then the layer
runs over all years once, step by step, and the forecasts start from its state: one year ahead for
every later year, and eleven years without observations from several of them.

    python examples/sunspots.py [--quick] [--out DIR]

The series comes with the package statsmodels (SILSO data, Royal Observatory of Belgium).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from _common import options, save
from statsmodels.datasets import sunspots
from torch import Tensor, nn

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches
from stateful_lstm.training import Trainer

LAST = 1960  # year of the training
AHEAD = 11  # years of a forecast without observations: about one cycle


class Model(nn.Module):
    """Predicts next year's value as this year's value plus a change."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, 24)
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor, reset_mask: Tensor | None = None) -> Tensor:
        y, _ = self.lstm(x, reset_mask=reset_mask)
        out: Tensor = x + self.head(y)
        return out


@torch.no_grad()
def predict_alone(model: Model, x: Tensor, steps: int) -> Tensor:
    """Forecasts from the current state, and restores it afterwards."""
    outputs = []
    with model.lstm.preserve_state():
        for _ in range(steps):
            x = model(x)
            outputs.append(x)
    return torch.cat(outputs)


def main() -> None:
    settings = options("A forecast of sunspots", "fewer epochs")
    table = sunspots.load_pandas().data
    years = table["YEAR"].to_numpy().astype(int)
    # Square roots: the spread grows with the level.
    series = torch.tensor(np.sqrt(table["SUNACTIVITY"].to_numpy()), dtype=torch.float32)
    known = int((years <= LAST).sum())
    mean, scale = series[:known].mean(), series[:known].std()
    x = ((series - mean) / scale).view(-1, 1, 1)

    torch.manual_seed(0)
    model = Model()
    windows = ContinuousBatches([x[:known, 0]], batch_size=1, window=24)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, weight_decay=1e-4)
    trainer = Trainer(model, optimizer, nn.MSELoss(), clip_grad_norm=1.0)
    history = trainer.fit(windows, epochs=30 if settings.quick else 100, progress=False)
    print(f"loss of the first epoch {history[0]:.3f}, of the last {history[-1]:.3f}")

    def counts(values: Tensor) -> Tensor:
        return (values.flatten() * scale + mean).clamp(min=0).square()

    model.eval()
    model.lstm.reset_state()
    with torch.no_grad():
        model(x[:known])
    one_ahead, alone, misses = [], [], []
    for k in range(known - 1, len(x) - 1):  # from year k on to year k + 1
        if (k - known + 1) % AHEAD == 0:
            forecast = counts(predict_alone(model, x[k : k + 1], AHEAD))
            happened = counts(x[k + 1 : k + 1 + AHEAD])
            alone.append((years[k], forecast))
            misses.append(forecast[: len(happened)] - happened)
        with torch.no_grad():
            one_ahead.append(model(x[k : k + 1]))
    ahead, truth = counts(torch.cat(one_ahead)), counts(x[known:])
    error = float((ahead - truth).square().mean().sqrt())
    as_before = float((counts(x[known - 1 : -1]) - truth).square().mean().sqrt())
    print(f"one year ahead, {LAST + 1}-{years[-1]}: off by {error:.1f} sunspots (root mean square)")
    print(f"the last year's number in its place:  off by {as_before:.1f}")
    on_its_own = float(torch.cat(misses).square().mean().sqrt())
    print(f"{AHEAD} years on its own:                  off by {on_its_own:.1f}")

    figure, axes = plt.subplots(figsize=(11, 4.2), layout="constrained")
    shown = known - 40
    axes.plot(years[shown:], counts(x[shown:]), color="#333333", lw=1.3, label="observed")
    axes.plot(years[known:], ahead, color="#1f6fb4", lw=1.1, label="one year ahead")
    for k, (year, forecast) in enumerate(alone):
        steps = np.arange(year + 1, year + 1 + AHEAD)
        label = f"{AHEAD} years on its own" if k == 0 else None
        axes.plot(steps, forecast, color="#c8641b", lw=1, ls="--", label=label)
    axes.axvline(LAST + 0.5, color="#999999", lw=0.8)
    axes.set(title="Sunspots: trained up to 1960, then forecast", xlabel="year", ylabel="sunspots")
    axes.set_xlim(years[shown], years[-1] + AHEAD)
    axes.set_ylim(0, 230)  # room for the legend
    axes.legend(frameon=False, ncols=3, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, settings.out, "sunspots.png")
    assert error < 0.7 * as_before


if __name__ == "__main__":
    main()
