"""Draws gradients.svg: how far the state goes over three calls, and how far gradients.

python docs/figures/gradients.py [FILE]    (any format that matplotlib knows)
"""

from itertools import pairwise

from _drawing import BLUE, CENTRED, INK, MONO, QUIET, RED, arrow, canvas, label, main, rounded, save

CALLS, LEFT, WIDTH, BETWEEN = 3, 21, 25, 4
STATE, GRADIENT = "#2e7d32", RED


def begin_of(call):
    return LEFT + call * (WIDTH + BETWEEN)


def draw(path):
    fig, ax = canvas(110, 56)
    for call in range(CALLS):
        middle = begin_of(call) + WIDTH / 2
        ax.text(middle, 53, f"call {call}", size=9.5, weight="bold", color=INK, **CENTRED)
    rows = (
        (38, "resident state", "lstm(x)", None, False),
        (23, "a reset inside", "reset_mask", 1, False),
        (8, "by hand", "hx=(h_n, c_n)", None, True),
    )
    for y, name, how, cut, by_hand in rows:
        ax.text(2, y + 6.4, name, size=9, weight="bold", color=INK, va="center")
        ax.text(2, y + 3.6, how, size=8, family=MONO, color=QUIET, va="center")
        for call in range(CALLS):
            rounded(ax, (begin_of(call), y, WIDTH, 10), BLUE, INK)
        reach(ax, y, cut, by_hand)
    arrow(ax, (21, 3), (27, 3), color=STATE)
    label(ax, 28, 3, "h and c go on")
    arrow(ax, (54, 3), (48, 3), color=GRADIENT, line="--")
    label(ax, 55, 3, "gradients come back")
    ax.plot([82, 82], [1.4, 4.6], color=INK, lw=2.4)
    label(ax, 83.5, 3, "the state is zero from here")
    save(fig, path)


def reach(ax, y, cut, by_hand):
    """Arrows of the state, above, and of gradients, below, through all calls of a row."""
    end = begin_of(CALLS - 1) + WIDTH
    stop = None if cut is None else begin_of(cut) + WIDTH * 0.55
    for begin, until in ((LEFT, end),) if stop is None else ((LEFT, stop), (stop, end)):
        arrow(ax, (begin + 1, y + 6.8), (until - 0.4, y + 6.8), color=STATE)
    borders = {LEFT, end} | ({stop} - {None})
    if not by_hand:
        borders |= {begin_of(call) for call in range(1, CALLS)}
    for begin, until in pairwise(sorted(borders)):
        last = until - BETWEEN if until != stop and until != end else until
        arrow(ax, (last - 1, y + 3), (begin + 0.4, y + 3), color=GRADIENT, line="--")
    if stop is not None:
        ax.plot([stop, stop], [y + 1, y + 9], color=INK, lw=2.4)


if __name__ == "__main__":
    main(draw, __file__)
