"""The results of examples/character_model.py, as one table, one plot and a JSON file."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CARRIED, FRESH = "#1f6fb4", "#c8641b"


@dataclass
class Result:
    """One training run. All losses are in bits per character."""

    losses: list[float]  # of every update, in order
    by_position: list[float]  # on held-out text, at each place in the window
    seconds: float

    @property
    def held_out(self) -> float:
        return statistics.fmean(self.by_position)

    @property
    def last_losses(self) -> float:
        return statistics.fmean(self.losses[-max(1, len(self.losses) // 20) :])


@dataclass
class Speed:
    """Characters per second (medians), and the ratio of each pair of blocks."""

    ours: float
    nn_lstm: float
    ratio: float  # above 1: this library is faster
    ratios: list[float]


def table(
    carried: Result, fresh: Result, speeds: dict[str, Speed], updates: int, seconds: float
) -> str:
    def row(name: str, left: str, right: str, last: str = "") -> str:
        return f"{name:<34}{left:>16}{right:>16}{last:>24}".rstrip()

    def bits(name: str, left: float, right: float) -> str:
        return row(name, f"{left:.3f}", f"{right:.3f}", f"{left - right:+.3f}")

    def speed(name: str, found: Speed) -> str:
        spread = f"{found.ratio:.2f} ({min(found.ratios):.2f} to {max(found.ratios):.2f})"
        return row(name, f"{found.ours:,.0f}", f"{found.nn_lstm:,.0f}", spread)

    lines = [
        row("bits per character", "state carried", "state dropped", "difference"),
        bits("held-out text", carried.held_out, fresh.held_out),
        bits("  first character of a window", carried.by_position[0], fresh.by_position[0]),
        bits("  last character of a window", carried.by_position[-1], fresh.by_position[-1]),
        bits("training text, last updates", carried.last_losses, fresh.last_losses),
        "",
        row("characters per second", "StatefulLSTM", "nn.LSTM", "ratio (range)"),
        speed("training, state carried", speeds["training"]),
        speed("writing, one at a time", speeds["writing"]),
        "",
        f"{updates} updates a run, {seconds:.0f} seconds in all",
    ]
    rule = "-" * max(len(line) for line in lines)
    lines.insert(7, rule)
    lines.insert(1, rule)
    return "\n".join(lines)


def write(
    folder: Path,
    summary: str,
    sample: str,
    carried: Result,
    fresh: Result,
    speeds: dict[str, Speed],
    settings: dict[str, float | str],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(summary + "\n", encoding="utf-8")
    (folder / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    figures = {
        "settings": settings,
        "carried": {"held_out": carried.held_out, **asdict(carried)},
        "dropped": {"held_out": fresh.held_out, **asdict(fresh)},
        "characters_per_second": {name: asdict(speed) for name, speed in speeds.items()},
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def smooth(losses: list[float]) -> tuple[list[int], list[float]]:
    """Means over about eighty intervals, each at the middle of its interval."""
    width = max(1, len(losses) // 80)
    starts = range(0, len(losses) - width + 1, width)
    return (
        [start + width // 2 for start in starts],
        [statistics.fmean(losses[start : start + width]) for start in starts],
    )


def draw(path: Path, carried: Result, fresh: Result) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    window = len(carried.by_position)
    for result, color, name, below in (
        (fresh, FRESH, "state dropped after each window", 8),
        (carried, CARRIED, "state carried on", -14),
    ):
        first = result.by_position[0]
        left.plot(*smooth(result.losses), color=color, lw=1.8, label=name)
        right.plot(
            result.by_position,
            color=color,
            lw=1.8,
            marker="o",
            ms=4,
            label=f"{name}: {result.held_out:.2f} on average",
        )
        right.annotate(
            f"{first:.2f}", (0, first), (0, below), textcoords="offset points", color=color
        )
    left.set(title="Training text", xlabel="update", ylabel="bits per character")
    left.set_ylim(top=max(fresh.losses[len(fresh.losses) // 40 :]))  # without the steep start
    right.set(
        title="Held-out text",
        xlabel=f"place of the character in its window of {window}",
        ylabel="bits per character",
        xticks=range(0, window, 3),
    )
    right.margins(y=0.12)
    for axes in (left, right):
        axes.legend(frameon=False, loc="upper right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", lw=0.7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
