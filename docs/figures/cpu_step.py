"""Draws cpu_step.svg: how a CPU kernel computes a step from two products.

python docs/figures/cpu_step.py [FILE]    (any format that matplotlib knows)
"""

from _drawing import BLUE, GREEN, GREY, INK, ORANGE, arrow, box, canvas, label, main, save

HIGH, LOW, MIDDLE, SIZE = 32, 12, 21.5, 10.5


def draw(path):
    fig, ax = canvas(110, 48)
    box(ax, (2, HIGH, 21, SIZE), BLUE, "x", "some steps at once, together", "about a hundred rows")
    box(ax, (33, HIGH, 24, SIZE), ORANGE, "weight_ih", "panel by panel")
    box(ax, (2, LOW, 21, SIZE), BLUE, "h", "of the step before;", "zero after a reset")
    panel = ("a panel: i, f, g, o", "of the same few units")
    box(ax, (33, LOW, 24, SIZE), ORANGE, "weight_hh", *panel)
    box(ax, (67, MIDDLE, 16, SIZE), GREY, "sums", "(rows, 4, lanes),", "in the cache")
    box(
        ax,
        (91, MIDDLE, 17, SIZE),
        GREEN,
        "lstm_equations.h",
        "gates, then",
        "c and h of these units",
    )

    for low in (LOW, HIGH):
        arrow(ax, (23.3, low + SIZE / 2), (32.7, low + SIZE / 2))
    arrow(ax, (57.3, HIGH + 4), (66.7, MIDDLE + 7.5))
    arrow(ax, (57.3, LOW + 6.5), (66.7, MIDDLE + 3))
    arrow(ax, (83.3, MIDDLE + SIZE / 2), (90.7, MIDDLE + SIZE / 2))
    label(ax, 45, HIGH + SIZE + 2, "before the steps", ha="center")
    label(ax, 45, LOW - 2, "at every step, added", ha="center")

    ax.plot([99.5, 99.5, 12.5], [MIDDLE - 0.3, 5, 5], color=INK, lw=1.4)
    arrow(ax, (12.5, 5), (12.5, LOW - 0.3))
    label(ax, 71, 6.8, "the next step, after all units have their h", ha="center")
    save(fig, path)


if __name__ == "__main__":
    main(draw, __file__)
