"""Draws architecture.svg, the figure in docs/internals/architecture.md.

python docs/figures/architecture.py [FILE]    (any format that matplotlib knows)
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
    VIOLET,
    arrow,
    canvas,
    main,
    rounded,
    save,
)

WIDTH, HEIGHT = 52, 98
BOTH, BACK = "<->", "<-"
MAIN, SIDE = (9, 23), (35, 15)  # the two columns of Python: left edge and width
THIRDS = (3, 19, 35)  # left edges of the three columns of C++
FAST, PLAIN = 3.8, 6.8  # the lanes of the two fast paths
NAME, TEXT = 9.5, 9


def box(ax, place, colour, name, *lines):
    """A box at (x, y, width, height): a file's name over its purpose."""
    rounded(ax, place, colour, INK)
    x, y, width, height = place
    where = {"ha": "center", "va": "top", "color": INK}
    ax.text(x + width / 2, y + height - 0.7, name, size=NAME, weight="bold", **where)
    text = "\n".join(lines)
    ax.text(x + width / 2, y + height - 3, text, size=TEXT, linespacing=1.2, **where)


def region(ax, place, *labels):
    """A frame, and labels (x, y, text) where no arrow passes."""
    rounded(ax, place, "white", QUIET)
    for k, (x, y, text) in enumerate(labels):
        look = {"style": "italic"} if k else {"weight": "bold"}
        ax.text(x, y, text, va="center", size=TEXT, color=QUIET, **look)


def lane(ax, *points):
    """A dashed line through these points, with an arrow at its end."""
    ax.plot(*zip(*points[:-1], strict=True), color=INK, lw=1.4, ls="--")
    arrow(ax, points[-2], points[-1], line="--")


def draw(path):
    fig, ax = canvas(WIDTH, HEIGHT)
    call = "output, (h_n, c_n) = lstm(input, …)"
    ax.text(WIDTH / 2, HEIGHT - 1.6, call, family=MONO, size=10, color=INK, **CENTRED)
    python(ax)
    cpp(ax)
    # The fast paths: from the module for inference, from autograd for a plain layer.
    lane(ax, (MAIN[0], 87), (FAST, 87), (FAST, 43.8), (FAST, 39.3))
    lane(ax, (MAIN[0], 60), (PLAIN, 60), (PLAIN, 43.8), (PLAIN, 39.3))
    where = {"rotation": 90, "size": TEXT, "style": "italic", "color": QUIET, **CENTRED}
    ax.text(FAST - 1.4, 64, "inference, allocated state", **where)
    ax.text(PLAIN - 1.4, 54, "plain layer", **where)
    save(fig, path)


def python(ax):
    region(ax, (0.5, 44.5, 51, 50), (1.5, 92.8, "Python: stateful_lstm/"))
    left, width = MAIN
    middle = left + width / 2
    rows = (
        (83, "module.py, stateful_call.py", "StatefulLSTM: parameters;", "the state of a call"),
        (74, "functional.py", "lstm(): checks, backend,", "autocast"),
        (65, "backend/layer_stack.py", "layers × directions,", "dropout"),
        (56, "backend/autograd.py", "one layer, one direction:", "the autograd Function"),
        (47, "backend/operators.py", "the library's operators,", "with types"),
    )
    for y, name, *lines in rows:
        box(ax, (left, y, width, 7.3), BLUE, name, *lines)
    for y, *_ in rows[:-1]:
        arrow(ax, (middle, y + 0.1), (middle, y - 1.8))
    x, width = SIDE
    box(ax, (x, 81.4, width, 8.9), GREEN, "state.py", "LSTMState owns", "h and c between", "calls")
    arrow(ax, (left + MAIN[1] + 0.2, 88), (x - 0.2, 88), BACK)
    arrow(ax, (left + MAIN[1] + 0.2, 85), (x - 0.2, 85))
    box(
        ax,
        (x, 64.2, width, 8.9),
        BLUE,
        "reference_layer.py",
        "one layer in",
        "tensor maths: the",
        "specification",
    )
    arrow(ax, (left + MAIN[1] + 0.2, 68.6), (x - 0.2, 68.6), BOTH)


def cpp(ax):
    fast, cpu, cuda = THIRDS
    labels = (8.4, 40.5, "csrc/bindings/"), (27.2, 40.5, "torch, Python")
    region(ax, (0.5, 30, 51, 12), *labels)
    box(ax, (fast - 0.6, 31, 15, 8), ORANGE, "fastpath_*.cpp", "past torch's", "dispatcher")
    box(ax, (cpu - 0.6, 31, 15, 8), ORANGE, "operators_cpu", "torch's operators:", "checks, memory")
    box(ax, (cuda - 0.6, 31, 15, 8), ORANGE, "operators_cuda", "the same,", "for CUDA")
    arrow(ax, (cpu + 6, 46.9), (cpu + 6, 39.3))
    ax.plot([cpu + 10, cpu + 10, cuda + 6.9], [46.9, 43.2, 43.2], color=INK, lw=1.4)
    arrow(ax, (cuda + 6.9, 43.2), (cuda + 6.9, 39.3))

    labels = (34.6, 22, "csrc/runtime/"), (34.6, 19.8, "threads, memory")
    region(ax, (0.5, 15.6, 33.5, 10.2), *labels)
    box(
        ax,
        (fast - 0.6, 16.6, 15, 8),
        VIOLET,
        "stateful_inference",
        "a stack, in place",
        "on its state",
    )
    box(ax, (cpu - 0.6, 16.6, 14.2, 8), VIOLET, "layer", "a layer over", "a sequence")
    for start in (fast, cpu):
        for end in (fast, cpu):
            arrow(ax, (start + 6.9, 30.8), (end + 6.9 + (start - end) / 8, 24.8))
    labels = (17.3, 11.7, "kernels"), (23.5, 11.7, "plain structs only")
    region(ax, (0.5, 0.5, 51, 12.6), *labels)
    box(ax, (fast - 0.6, 1.5, 15, 8.6), GREY, "csrc/cpu/", "one build for each", "instruction set")
    box(ax, (cpu - 0.6, 1.5, 15, 8.6), GREY, "csrc/", "lstm_equations.h", "params.h")
    box(ax, (cuda - 0.6, 1.5, 15, 8.6), GREY, "csrc/cuda/", "a kernel for each", "regime")
    for start in (fast, cpu):
        arrow(ax, (start + 6.9, 16.4), (fast + 6.9 + (start - fast) / 8, 10.3))
    arrow(ax, (cuda + 13.5, 30.8), (cuda + 13.5, 10.3))
    arrow(ax, (cpu - 0.8, 5), (fast + 14.6, 5))
    arrow(ax, (cpu + 14.6, 5), (cuda - 0.8, 5))


if __name__ == "__main__":
    main(draw, __file__)
