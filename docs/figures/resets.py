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

STEPS, LEFT, CELL, HIGH, TYPE = 12, 4, 4, 4, 10
FORWARD, REVERSE = "#2e7d32", "#6a3d9a"
# Lower edge, text, reset before this step or None, length.
ROWS = (
    (44, "row 0", 5, STEPS),
    (29, "row 1", None, 8),
    (14, "row 2", 3, 9),
)


def draw(path):
    fig, ax = canvas(54, 61)
    label(ax, 1, 59, "step", size=TYPE - 1)
    for t in range(STEPS):
        ax.text(x_of(t) + CELL / 2, 57, str(t), size=TYPE - 1, color=QUIET, **CENTRED)
    for low, name, reset, length in ROWS:
        ax.text(1, low + HIGH + 4.3, name, size=11, weight="bold", color=INK, va="center")
        says = [] if reset is None else [f"reset_mask[{reset}]"]
        says += [] if length == STEPS else [f"lengths: {length}"]
        how = {"size": TYPE, "family": MONO, "color": QUIET, "va": "center"}
        ax.text(8.5, low + HIGH + 4.2, "  ".join(says), **how)
        for t in range(STEPS):
            cell(ax, t, low, reset, length)
        pieces(ax, low, reset, length)
    arrow(ax, (LEFT, 7.3), (LEFT + 6, 7.3), color=FORWARD)
    label(ax, LEFT + 7.5, 7.3, "forward; it ends at h_n, c_n and the state", size=TYPE)
    arrow(ax, (LEFT + 6, 4.6), (LEFT, 4.6), color=REVERSE)
    label(ax, LEFT + 7.5, 4.6, "reverse, in a bidirectional layer", size=TYPE)
    ax.add_patch(Rectangle((LEFT + 1, 0.7), CELL, 2.4, fc="white", ec=QUIET, ls=":"))
    label(ax, LEFT + 7.5, 1.9, "the output is 0", size=TYPE)
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
    """The arrow of each piece, forward above the steps and reverse below."""
    cuts = [0, length] if reset is None else [0, reset, length]
    above, below = low + HIGH + 1.3, low - 1.3
    arrow(ax, (LEFT - 2.8, above), (x_of(cuts[1]) - 0.3, above), color=FORWARD)
    if reset is not None:
        arrow(ax, (x_of(reset) + 0.2, above), (x_of(length) - 0.3, above), color=FORWARD)
        ax.plot([x_of(reset)] * 2, [low - 2.2, low + HIGH + 2.2], color=RED, lw=2.4)
    for begin, end in pairwise(cuts):
        arrow(ax, (x_of(end) - 0.3, below), (x_of(begin) + 0.3, below), color=REVERSE)


if __name__ == "__main__":
    main(draw, __file__)
