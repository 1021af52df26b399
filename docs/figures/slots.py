"""Draws slots.svg: which slots of the state three batches read and write.

python docs/figures/slots.py [FILE]    (any format that matplotlib knows)
"""

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
    canvas,
    label,
    main,
    save,
)
from matplotlib.patches import Circle, Rectangle

LEFT, RIGHT = 7.5, 53.5
CALLS = (16, 30, 45.5)  # x of each
INDICES = ((3, 0, 4), (4, 1, -1), (0, 4, 3))  # state_indices of each
# Slot, stream, colour, from which x until which its state is there, the call that begins it.
STREAMS = (
    (0, "B", ORANGE, LEFT, RIGHT, None),
    (1, "D", VIOLET, CALLS[1], RIGHT, (1, 1)),
    (3, "A", BLUE, LEFT, 34, None),
    (3, "E", YELLOW, CALLS[2], RIGHT, (2, 2)),
    (4, "C", GREEN, LEFT, RIGHT, None),
)
SLOTS, LANE, HEIGHT, BOTTOM = 5, 6.4, 4.2, 13
TYPE = 10


def y_of(slot):
    return BOTTOM + (SLOTS - 1 - slot) * LANE


def draw(path):
    fig, ax = canvas(54, 58)
    for slot in range(SLOTS):
        bar(ax, slot, LEFT, RIGHT, GREY, "none")
        label(ax, 1, y_of(slot), f"slot {slot}", size=TYPE)
    for slot, name, colour, begin, end, _ in STREAMS:
        bar(ax, slot, begin, end, colour, INK)
        at = begin + (2.5 if begin == LEFT else 5)
        ax.text(at, y_of(slot), name, size=10, weight="bold", color=INK, **CENTRED)
    label(ax, 34.8, y_of(3), "A ended", size=TYPE)

    for call, (x, slots) in enumerate(zip(CALLS, INDICES, strict=True)):
        text = {"family": MONO, "color": INK, **CENTRED}
        ax.text(x, 53, f"call {call}", size=11, weight="bold", color=INK, **CENTRED)
        ax.text(x, 50, f"[{', '.join(map(str, slots))}]", size=TYPE, **text)
        if -1 in slots:
            padding = f"row {slots.index(-1)} is padding: it writes nothing"
            label(ax, x, 46.7, padding, ha="center", size=TYPE)
        ax.plot([x, x], [BOTTOM - 3.2, 45], color=QUIET, lw=0.8, ls=":", zorder=1.5)
        for row, slot in enumerate(slots):
            if slot >= 0:
                begins = any((call, row) == begin for *_, begin in STREAMS)
                circle(ax, x, y_of(slot), row, RED if begins else INK)

    label(ax, 30, 56.3, "state_indices of three calls", ha="center", size=TYPE)
    circle(ax, 4, 6.6, "0", INK)
    label(ax, 7.5, 6.6, "this row of the batch reads and writes the slot", size=TYPE)
    circle(ax, 4, 2.4, "2", RED)
    label(ax, 7.5, 2.4, "reset_mask is True: a stream begins at zero", size=TYPE)
    save(fig, path)


def bar(ax, slot, begin, end, fill, edge):
    low = y_of(slot) - HEIGHT / 2
    ax.add_patch(Rectangle((begin, low), end - begin, HEIGHT, fc=fill, ec=edge, lw=0.8))


def circle(ax, x, y, row, edge):
    width = 2.2 if edge == RED else 1
    ax.add_patch(Circle((x, y), 1.75, fc="white", ec=edge, lw=width, zorder=2))
    ax.text(x, y, str(row), size=TYPE, color=INK, zorder=3, **CENTRED)


if __name__ == "__main__":
    main(draw, __file__)
