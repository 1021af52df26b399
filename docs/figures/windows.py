"""Draws windows.svg: sequences in the rows of ContinuousBatches, as it lays them out itself.

python docs/figures/windows.py [FILE]    (any format that matplotlib knows)
"""

import torch
from _drawing import (
    BLUE,
    CENTRED,
    GREEN,
    GREY,
    INK,
    MONO,
    ORANGE,
    QUIET,
    RED,
    VIOLET,
    YELLOW,
    arrow,
    canvas,
    label,
    main,
    save,
)
from matplotlib.patches import Rectangle

from stateful_lstm.data import ContinuousBatches

COLOURS = (BLUE, ORANGE, GREEN, VIOLET, YELLOW)
LENGTHS = (22, 9, 8, 5, 13)  # of sequences a, b, ...
ROWS, STEPS = 3, 8
CELL, LEFT, BETWEEN, ROW = 1.92, 5.4, 2, 5  # sizes in the figure
TOP = 24  # lower edge of row 0
TYPE = 9.5


def draw(path):
    sequences = [torch.full((n, 1), k) for k, n in enumerate(LENGTHS)]
    windows = list(ContinuousBatches(sequences, batch_size=ROWS, window=STEPS))
    fig, ax = canvas(56, 37)

    for row in range(ROWS):
        label(ax, 0.5, TOP - row * ROW + CELL / 2, f"row {row}", size=TYPE)
    for k, window in enumerate(windows):
        left = LEFT + k * (STEPS * CELL + BETWEEN)
        title = {"size": 10.5, "weight": "bold", "color": INK, **CENTRED}
        ax.text(left + STEPS * CELL / 2, TOP + 5, f"window {k}", **title)
        for row in range(ROWS):
            low = TOP - row * ROW
            for t in range(STEPS):
                cell(ax, left + t * CELL, low, window, row, t)
            if k + 1 < len(windows) and goes_on(windows[k + 1], row):
                end = left + STEPS * CELL
                arrow(ax, (end + 0.2, low + CELL / 2), (end + BETWEEN - 0.2, low + CELL / 2))

    lengths = "  ".join(f"{chr(ord('a') + k)}: {n}" for k, n in enumerate(LENGTHS))
    label(ax, LEFT, 33.5, f"sequences and their steps:  {lengths}", size=TYPE)
    notes = (
        "reset_mask is True: a sequence begins",
        "the state continues",
        "target_mask is False: the last step has no next step",
        "padding: beyond lengths",
    )
    for k, note in enumerate(notes):
        label(ax, LEFT + 4, 9.5 - 2.7 * k, note, size=TYPE)
    ax.plot([LEFT + 1, LEFT + 1], [8.4, 10.6], color=RED, lw=2.4)
    arrow(ax, (LEFT, 6.8), (LEFT + 2.4, 6.8))
    ax.add_patch(Rectangle((LEFT, 3.15), CELL, CELL, fc=GREY, ec=INK, lw=0.8))
    ax.add_patch(Rectangle((LEFT, 0.45), CELL, CELL, fc="white", ec=QUIET, ls=":"))
    save(fig, path)


def goes_on(window, row):
    return window.lengths[row] > 0 and not window.reset_mask[0, row]


def cell(ax, x, y, window, row, t):
    """One step of one row: its sequence's letter; a red edge where it begins."""
    if t >= window.lengths[row]:
        ax.add_patch(Rectangle((x, y), CELL, CELL, fc="white", ec=QUIET, lw=0.8, ls=":"))
        return
    sequence = int(window.input[t, row, 0])
    colour = COLOURS[sequence] if window.target_mask[t, row] else GREY
    ax.add_patch(Rectangle((x, y), CELL, CELL, fc=colour, ec=INK, lw=0.8))
    letter = {"family": MONO, "size": TYPE, "color": INK, **CENTRED}
    ax.text(x + CELL / 2, y + CELL / 2, chr(ord("a") + sequence), **letter)
    if window.reset_mask[t, row]:
        ax.plot([x, x], [y - 0.7, y + CELL + 0.7], color=RED, lw=2.4)


if __name__ == "__main__":
    main(draw, __file__)
