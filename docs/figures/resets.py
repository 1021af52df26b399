"""Draws resets.svg: where resets and lengths begin and end a row's states, in both directions.

python docs/figures/resets.py [FILE]    (any format that matplotlib knows)
"""

from itertools import pairwise

from _drawing import (
    BLUE,
    CENTRED,
    GREEN,
    INK,
    MONO,
    QUIET,
    RED,
    arrow,
    canvas,
    label,
    main,
    save,
)
from matplotlib.patches import Rectangle

STEPS, LEFT, CELL, HIGH = 12, 26, 5.6, 4
FORWARD, REVERSE = "#2e7d32", "#6a3d9a"
# Lower edge, text, reset before this step or None, length.
ROWS = (
    (33, "row 0", 5, STEPS),
    (21, "row 1", None, 8),
    (9, "row 2", 3, 9),
)


def draw(path):
    fig, ax = canvas(110, 45)
    for t in range(STEPS):
        ax.text(x_of(t) + CELL / 2, 42.5, str(t), size=8, color=QUIET, **CENTRED)
    label(ax, LEFT - 6, 42.5, "step", ha="center")
    for low, name, reset, length in ROWS:
        ax.text(2, low + HIGH / 2, name, size=9, weight="bold", color=INK, va="center")
        says = [] if reset is None else [f"reset_mask[{reset}]"]
        says += [] if length == STEPS else [f"lengths: {length}"]
        how = {"size": 8, "family": MONO, "color": QUIET, "va": "center"}
        ax.text(8, low + HIGH / 2, "\n".join(says), **how)
        for t in range(STEPS):
            cell(ax, t, low, reset, length)
        pieces(ax, low, reset, length)
    arrow(ax, (LEFT, 3), (LEFT + 6, 3), color=FORWARD)
    label(ax, LEFT + 7, 3, "forward")
    arrow(ax, (LEFT + 20, 3), (LEFT + 14, 3), color=REVERSE)
    label(ax, LEFT + 21, 3, "reverse, in a layer that has it")
    ax.add_patch(Rectangle((LEFT + 46, 1.5), CELL, 3, fc="white", ec=QUIET, ls=":"))
    label(ax, LEFT + 53, 3, "the output is 0")
    save(fig, path)


def x_of(t):
    return LEFT + t * CELL


def cell(ax, t, low, reset, length):
    if t >= length:
        style = {"fc": "white", "ec": QUIET, "ls": ":"}
    else:
        style = {"fc": BLUE if reset is None or t < reset else GREEN, "ec": INK}
    ax.add_patch(Rectangle((x_of(t), low), CELL, HIGH, lw=0.8, **style))


def pieces(ax, low, reset, length):
    """Each piece's way, forward above the steps and reverse below, and where it begins from."""
    cuts = [0, length] if reset is None else [0, reset, length]
    above, below = low + HIGH + 1.3, low - 1.3
    arrow(ax, (LEFT - 3.5, above), (x_of(cuts[1]) - 0.3, above), color=FORWARD)
    if reset is not None:
        arrow(ax, (x_of(reset) + 0.2, above), (x_of(length) - 0.3, above), color=FORWARD)
        ax.plot([x_of(reset)] * 2, [low - 2.2, low + HIGH + 2.2], color=RED, lw=2.4)
    for begin, end in pairwise(cuts):
        arrow(ax, (x_of(end) - 0.3, below), (x_of(begin) + 0.3, below), color=REVERSE)
    label(ax, x_of(length) + 0.7, above, "h_n, c_n, the state", ha="left")


if __name__ == "__main__":
    main(draw, __file__)
