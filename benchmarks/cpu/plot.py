"""Plots the ratios to the best peer as dots, one plot per run, readable on a phone.

python -m benchmarks.cpu.plot benchmarks/results/cpu.json ...    draws a .png beside each file
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, no screen

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from benchmarks.cpu.report import TITLES, Row, mean, trusted
from benchmarks.cpu.timing import Timing
from benchmarks.shapes import Shape

AHEAD, BEHIND = "#2a7f8e", "#c8553d"
SHOWN = 6  # losing shapes that are named


def rows_of(contents: Mapping[str, Any]) -> list[Row]:
    """The rows of a run's JSON, with the two times that the plot needs: ours and the peer's."""
    return [
        Row(
            kind=row["kind"],
            dtype=row["dtype"],
            shape=Shape(**row["shape"]),
            times={name: timing_of(row["times"][name]) for name in ("ours", row["best peer"])},
            floor=0.0,
            limit="",
            others=row["taken by other processes"],
            absent={},
        )
        for row in contents["rows"]
    ]


def timing_of(times: Mapping[str, Any]) -> Timing:
    middle, (low, high) = times["median us"], times["quartiles us"]
    turns = tuple(turn * 1e-6 for turn in times.get("turns us", ()))
    return Timing(middle * 1e-6, low * 1e-6, high * 1e-6, times["samples"], turns)


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each group, by the group's title."""
    return {title: [row for row in rows if row.group == group] for group, title in TITLES.items()}


def subject(about: Mapping[str, Any]) -> str:
    """The machine in one line."""
    return f"{about['processor']}, {about['threads']} threads, torch {about['packages']['torch']}"


def draw(panels: Mapping[str, Sequence[Row]], about: str, path: Path) -> None:
    """Draws a panel per title, a line per dtype and a dot per row; names the losing rows."""
    panels = {title: rows for title, rows in panels.items() if rows}
    rows = [row for found in panels.values() for row in found]
    losing = sorted((row for row in rows if row.ratio < 1), key=lambda row: row.ratio)
    lines = [len({row.dtype for row in found}) for found in panels.values()]
    words = losing_words(losing, len(rows))
    # In inches. On a phone 380 pixels wide, 13 points are 14 pixels high.
    above, below = 1.35, 0.8 + 0.27 * len(words)
    heights = [0.45 + 0.42 * count for count in lines]
    height = sum(heights) + above + below
    with plt.rc_context({"font.size": 13}):
        figure, axes = plt.subplots(
            len(panels),
            squeeze=False,
            sharex=True,
            figsize=(5, height),
            gridspec_kw={
                "height_ratios": heights,
                "left": 0.24,
                "right": 0.83,
                "top": 1 - above / height,
                "bottom": below / height,
                "hspace": 0.75,
            },
        )
        for axis, (title, found) in zip(axes[:, 0], panels.items(), strict=True):
            panel(axis, found)
            axis.set_title(title, loc="left", x=-0.38, fontsize=14, fontweight="bold")
        ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
        ratios = [row.ratio for row in rows]
        axes[-1, 0].set_xscale("log")
        axes[-1, 0].xaxis.set_minor_locator(NullLocator())
        axes[-1, 0].set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        axes[-1, 0].set_xlim(min([*ratios, 0.8]) / 1.1, max([*ratios, 2]) * 1.15)
        figure.text(
            0.03, 1 - 0.15 / height, "Best other library's time / ours", va="top", fontsize=16
        )
        figure.text(
            0.03,
            1 - 0.5 / height,
            "right of 1x: ours is faster\nbar: mean; hollow: noisy, not counted",
            va="top",
        )
        figure.text(0.03, (below - 0.5) / height, "\n".join(words), va="top", color=BEHIND)
        figure.text(0.03, 0.12 / height, about, fontsize=10, color="gray")
        figure.savefig(path, dpi=160)
    plt.close(figure)


def losing_words(losing: Sequence[Row], count: int) -> list[str]:
    """The number of losing rows, and the worst of them by name."""
    if not losing:
        return [f"slower in none of {count}"]
    words = [f"slower in {len(losing)} of {count} (T, B, I, H, layers):"]
    words += [f"{row.ratio:.2f}x  {row.kind} {row.dtype} {row.shape}" for row in losing[:SHOWN]]
    return words + [f"and {len(losing) - SHOWN} more"] * (len(losing) > SHOWN)


def panel(axis: Any, rows: Sequence[Row]) -> None:
    """Draws a line of dots per dtype, with the mean as a bar and a number beside it."""
    dtypes = sorted({row.dtype for row in rows}, reverse=True)  # float32 before bfloat16
    for place, dtype in enumerate(dtypes):
        found = [row for row in rows if row.dtype == dtype]
        for row in sorted(found, key=lambda row: -row.ratio):  # losses on top
            color = AHEAD if row.ratio >= 1 else BEHIND
            face = "none" if row.noisy else color
            axis.plot(row.ratio, place, "o", color=color, markerfacecolor=face, alpha=0.8)
        average = mean(row.ratio for row in trusted(found))
        if average:
            axis.plot(average, place, "|", color="black", markersize=17, markeredgewidth=3)
            beside = axis.get_yaxis_transform()
            axis.text(1.03, place, f"{average:.2f}x", va="center", transform=beside)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(dtypes)), dtypes)
    axis.set_ylim(len(dtypes) - 0.5, -0.5)
    axis.tick_params(left=False)
    axis.spines[["top", "right", "left"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="JSON files of benchmarks/cpu/bench.py")
    for path in parser.parse_args().files:
        contents = json.loads(path.read_text())
        draw(panels(rows_of(contents)), subject(contents["machine"]), path.with_suffix(".png"))


if __name__ == "__main__":
    main()
