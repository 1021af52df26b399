"""Draws gradients.svg: how far the state goes over three calls, and how far gradients.

python docs/figures/gradients.py [FILE]    (any format that matplotlib knows)
"""

from itertools import pairwise

from _drawing import BLUE, CENTRED, INK, MONO, QUIET, RED, arrow, canvas, main, rounded, save

CALLS, LEFT, WIDTH, BETWEEN = 3, 1, 15, 2.5
STATE, GRADIENT = "#2e7d32", RED


def begin_of(call):
    return LEFT + call * (WIDTH + BETWEEN)


def draw(path):
    fig, ax = canvas(52, 58)
    for call in range(CALLS):
        middle = begin_of(call) + WIDTH / 2
        ax.text(middle, 56, f"call {call}", size=11, weight="bold", color=INK, **CENTRED)
    rows = (
        (40.5, "resident state", "lstm(x)", None, False),
        (25.5, "a reset inside", "reset_mask", 1, False),
        (10.5, "state by hand", "hx=(h_n, c_n)", None, True),
    )
    for y, name, how, cut, by_hand in rows:
        ax.text(LEFT, y + 10.7, name, size=11, weight="bold", color=INK, va="center")
        end = begin_of(CALLS - 1) + WIDTH
        ax.text(end, y + 10.7, how, size=10, family=MONO, color=QUIET, va="center", ha="right")
        for call in range(CALLS):
            rounded(ax, (begin_of(call), y, WIDTH, 9), BLUE, INK)
        reach(ax, y, cut, by_hand)
    legend = {"size": 10, "color": QUIET, "va": "center"}
    arrow(ax, (LEFT, 7.3), (LEFT + 6, 7.3), color=STATE)
    ax.text(LEFT + 7.5, 7.3, "h and c continue", **legend)
    arrow(ax, (LEFT + 6, 4.5), (LEFT, 4.5), color=GRADIENT, line="--")
    ax.text(LEFT + 7.5, 4.5, "gradients flow back", **legend)
    ax.plot([LEFT + 3, LEFT + 3], [0.6, 3], color=INK, lw=2.4)
    ax.text(LEFT + 7.5, 1.8, "the state is zero from here", **legend)
    save(fig, path)


def reach(ax, y, cut, by_hand):
    """Arrows of the state, above, and of gradients, below, through all calls of a row."""
    end = begin_of(CALLS - 1) + WIDTH
    stop = None if cut is None else begin_of(cut) + WIDTH * 0.55
    for begin, until in ((LEFT, end),) if stop is None else ((LEFT, stop), (stop, end)):
        arrow(ax, (begin + 0.8, y + 6.2), (until - 0.3, y + 6.2), color=STATE)
    borders = {LEFT, end} | ({stop} - {None})
    if not by_hand:
        borders |= {begin_of(call) for call in range(1, CALLS)}
    for begin, until in pairwise(sorted(borders)):
        last = until - BETWEEN if until != stop and until != end else until
        arrow(ax, (last - 0.8, y + 2.8), (begin + 0.3, y + 2.8), color=GRADIENT, line="--")
    if stop is not None:
        ax.plot([stop, stop], [y + 0.8, y + 8.2], color=INK, lw=2.4)


if __name__ == "__main__":
    main(draw, __file__)
