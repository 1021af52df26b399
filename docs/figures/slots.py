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

LEFT, RIGHT = 14, 106
CALLS = (32, 59, 86)  # x of each
INDICES = ((3, 0, 4), (4, 1, -1), (0, 4, 3))  # state_indices of each
# Slot, stream, colour, from which x until which its state is there, the call that begins it.
STREAMS = (
    (0, "B", ORANGE, LEFT, RIGHT, None),
    (1, "D", VIOLET, CALLS[1], RIGHT, (1, 1)),
    (3, "A", BLUE, LEFT, 71, None),
    (3, "E", YELLOW, CALLS[2], RIGHT, (2, 2)),
    (4, "C", GREEN, LEFT, RIGHT, None),
)
SLOTS, LANE, HEIGHT, BOTTOM = 5, 6.4, 4.2, 10


def y_of(slot):
    return BOTTOM + (SLOTS - 1 - slot) * LANE


def draw(path):
    fig, ax = canvas(110, 54)
    for slot in range(SLOTS):
        bar(ax, slot, LEFT, RIGHT, GREY, "none")
        label(ax, 4, y_of(slot), f"slot {slot}")
    for slot, name, colour, begin, end, _ in STREAMS:
        bar(ax, slot, begin, end, colour, INK)
        at = begin + (2.5 if begin == LEFT else 5.5)
        ax.text(at, y_of(slot), name, size=10, weight="bold", color=INK, **CENTRED)
    label(ax, 72, y_of(3), "A has ended")

    for call, (x, slots) in enumerate(zip(CALLS, INDICES, strict=True)):
        text = {"family": MONO, "color": INK, **CENTRED}
        ax.text(x, 49.5, f"call {call}", size=9.5, weight="bold", color=INK, **CENTRED)
        ax.text(x, 45.7, f"state_indices=[{', '.join(map(str, slots))}]", size=8.5, **text)
        if -1 in slots:
            label(ax, x, 42.3, f"row {slots.index(-1)} is padding: it writes nothing", ha="center")
        ax.plot([x, x], [BOTTOM - 3.2, 40.2], color=QUIET, lw=0.8, ls=":", zorder=1.5)
        for row, slot in enumerate(slots):
            if slot >= 0:
                begins = any((call, row) == begin for *_, begin in STREAMS)
                circle(ax, x, y_of(slot), row, RED if begins else INK)

    circle(ax, 16, 2.6, "0", INK)
    label(ax, 19, 2.6, "this row of the batch reads and writes the slot")
    circle(ax, 62, 2.6, "2", RED)
    label(ax, 65, 2.6, "with reset_mask True: a stream begins, at zero")
    save(fig, path)


def bar(ax, slot, begin, end, fill, edge):
    low = y_of(slot) - HEIGHT / 2
    ax.add_patch(Rectangle((begin, low), end - begin, HEIGHT, fc=fill, ec=edge, lw=0.8))


def circle(ax, x, y, row, edge):
    width = 2.2 if edge == RED else 1
    ax.add_patch(Circle((x, y), 1.75, fc="white", ec=edge, lw=width, zorder=2))
    ax.text(x, y, str(row), size=9, color=INK, zorder=3, **CENTRED)


if __name__ == "__main__":
    main(draw, __file__)
