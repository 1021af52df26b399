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
CELL, LEFT, BETWEEN, ROW = 3.6, 12, 3, 7  # sizes in the figure
TOP = 26  # lower edge of row 0


def draw(path):
    sequences = [torch.full((n, 1), k) for k, n in enumerate(LENGTHS)]
    windows = list(ContinuousBatches(sequences, batch_size=ROWS, window=STEPS))
    fig, ax = canvas(110, 42)

    for row in range(ROWS):
        label(ax, 3, TOP - row * ROW + CELL / 2, f"row {row}")
    for k, window in enumerate(windows):
        left = LEFT + k * (STEPS * CELL + BETWEEN)
        title = {"size": 9.5, "weight": "bold", "color": INK, **CENTRED}
        ax.text(left + STEPS * CELL / 2, TOP + 7.5, f"window {k}", **title)
        for row in range(ROWS):
            low = TOP - row * ROW
            for t in range(STEPS):
                cell(ax, left + t * CELL, low, window, row, t)
            if k + 1 < len(windows) and goes_on(windows[k + 1], row):
                end = left + STEPS * CELL
                arrow(ax, (end + 0.2, low + CELL / 2), (end + BETWEEN - 0.2, low + CELL / 2))

    lengths = "   ".join(f"{chr(ord('a') + k)}: {n}" for k, n in enumerate(LENGTHS))
    label(ax, LEFT, 38.5, f"sequences and their steps:   {lengths}")
    ax.plot([LEFT, LEFT], [5.2, 8.4], color=RED, lw=2.4)
    label(ax, LEFT + 1.5, 6.8, "reset_mask is True: a sequence begins")
    arrow(ax, (45, 6.8), (48, 6.8))
    label(ax, 49.5, 6.8, "the state goes on")
    ax.add_patch(Rectangle((70, 5.2), CELL, 3.2, fc="white", ec=QUIET, ls=":"))
    label(ax, 75, 6.8, "padding: beyond lengths")
    ax.add_patch(Rectangle((LEFT - 1, 1), 3.2, 3.2, fc=GREY, ec=INK, lw=0.8))
    note = "target_mask is False: a sequence's last step has no next one"
    label(ax, LEFT + 3.5, 2.6, note)
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
    letter = {"family": MONO, "size": 9, "color": INK, **CENTRED}
    ax.text(x + CELL / 2, y + CELL / 2, chr(ord("a") + sequence), **letter)
    if window.reset_mask[t, row]:
        ax.plot([x, x], [y - 1, y + CELL + 1], color=RED, lw=2.4)


if __name__ == "__main__":
    main(draw, __file__)
