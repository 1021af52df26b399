"""The ratios to the best peer as bars, one picture for a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, no screen

import matplotlib.pyplot as plt
from report import TITLES, Row, Target

AHEAD, BEHIND = "#2a7f8e", "#c8553d"


def draw(rows: list[Row], goals: list[Target], about: dict[str, Any], path: Path) -> None:
    """A column for each dtype, a panel for each group; above 1 this library is the faster."""
    dtypes = list(dict.fromkeys(row.dtype for row in rows))
    groups = [group for group in TITLES if any(row.group == group for row in rows)]
    panels = {
        (g, d): [row for row in rows if row.group == g and row.dtype == d]
        for g in groups
        for d in dtypes
    }
    heights = [max(len(panels[g, d]) for d in dtypes) + 2.0 for g in groups]
    figure, axes = plt.subplots(
        len(groups),
        len(dtypes),
        squeeze=False,
        figsize=(7.5 * len(dtypes), 0.24 * sum(heights) + 1),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for i, group in enumerate(groups):
        for j, dtype in enumerate(dtypes):
            here = [goal for goal in goals if goal.panel == (group, dtype)]
            panel(axes[i][j], panels[group, dtype], here)
            axes[i][j].set_title(f"{TITLES[group]}, {dtype}", fontsize=10, loc="left")
    figure.suptitle(
        "Best peer's time / ours; above 1 this library is faster\n"
        "Diamond: geometric mean. Dotted: target of the mean, or of a shape against ONNX Runtime\n"
        f"Shapes: T, B, I, H, layers. {about['processor']}, {about['threads']} threads, "
        f"torch {about['packages']['torch']}",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def panel(axis: Any, rows: Sequence[Row], goals: list[Target]) -> None:
    axis.set_xscale("log")
    ratios = [row.ratio for row in rows]
    places = range(len(rows))
    # Bars on a log scale begin at 1, so that their length is the gain or the loss.
    axis.barh(
        places,
        [ratio - 1 for ratio in ratios],
        left=1,
        color=[AHEAD if ratio >= 1 else BEHIND for ratio in ratios],
        height=0.7,
    )
    beside = axis.get_yaxis_transform()
    for place, row in enumerate(rows):
        text = f"{row.ratio:.2f}x  {row.best_peer}"
        if loop := row.against("loop over"):
            text += f"; {loop:.1f}x the loop"
        axis.text(1.01, place, text, va="center", fontsize=7, transform=beside)
    axis.set_yticks(places, [str(row.shape) for row in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.4, -0.8)
    if ratios:
        axis.plot(geometric_mean(ratios), len(rows) - 0.55, "D", color="black", clip_on=False)
    shapes = [row.shape for row in rows]
    for goal in goals:
        if goal.shape is None:
            axis.axvline(goal.goal, color="black", linestyle=":", linewidth=1)
        elif goal.shape in shapes:
            middle = shapes.index(goal.shape)
            axis.vlines(goal.goal, middle - 0.5, middle + 0.5, color="black", linestyle=":")
    axis.axvline(1, color="black", linewidth=1)
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
    axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks], fontsize=7)
    axis.set_xlim(min([*ratios, 0.8]) / 1.1, max([*ratios, 2]) * 1.1)
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
