"""Draws architecture.svg, the picture in docs/internals/architecture.md.

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
    arrow,
    box,
    canvas,
    label,
    main,
    rounded,
    save,
)

PYTHON, CPP, STATE, LIBRARY = BLUE, ORANGE, GREEN, GREY
BOTH, BACK = "<->", "<-"


def region(ax, place, name):
    rounded(ax, place, "white", QUIET)
    x, y, _, height = place
    ax.text(x + 1.2, y + height - 1, name, va="top", size=9, color=QUIET)


def draw(path):
    fig, ax = canvas(110, 90)

    call = "output, (h_n, c_n) = lstm(input, reset_mask=…, lengths=…, state_indices=…)"
    ax.text(35, 87, call, family=MONO, size=9.5, color=INK, **CENTRED)
    arrow(ax, (35, 85.5), (35, 79.3), BOTH)

    # Python, from the top down.
    region(ax, (2, 33, 106, 49), "Python: stateful_lstm/")
    box(ax, (19, 71, 32, 8), PYTHON, "module.py", "StatefulLSTM: the front door; parameters")
    arrow(ax, (35, 70.7), (35, 66.8), BOTH)
    first = "lstm(): checks (arguments.py),"
    box(ax, (19, 56.5, 32, 10), PYTHON, "functional.py", first, "then choice of backend, autocast")
    arrow(ax, (35, 56.2), (35, 52.8), BOTH)
    box(ax, (19, 44.5, 32, 8), PYTHON, "stack.py", "layers × directions, dropout")
    arrow(ax, (35, 44.2), (35, 40.8), BOTH)
    box(ax, (19, 34.5, 32, 6), PYTHON, "reference.py", "the specification, any device")

    owner = ("LSTMState: the only owner of", "h (L·D, S, P) and c (L·D, S, H)", "between calls")
    box(ax, (76, 67, 31, 12), STATE, "state.py", *owner)
    arrow(ax, (51.3, 76.5), (75.7, 76.5), BACK)
    label(ax, 63.5, 78, "state_gather: rows of this call", ha="center")
    arrow(ax, (51.3, 73.5), (75.7, 73.5))
    label(ax, 63.5, 72, "state_scatter_: after success", ha="center")

    arrow(ax, (51.3, 48.5), (55.7, 48.5), BOTH)
    layer = ("one layer, one direction:", "autograd Function")
    box(ax, (56, 44.5, 20, 11), PYTHON, "autograd.py", *layer)
    arrow(ax, (76.3, 48.5), (80.7, 48.5), BOTH)
    products = ("on CUDA, after the recurrence:", "dW_ih, dW_hh, db, dx")
    box(ax, (81, 44.5, 26, 11), LIBRARY, "library products", *products)
    arrow(ax, (66, 44.2), (66, 41.3), BOTH)
    box(
        ax,
        (56, 34.5, 51, 6.5),
        PYTHON,
        "operators.py",
        "loads the library; shapes and types of its operators",
    )

    # C++.
    region(ax, (2, 2, 106, 29), "C++: csrc/")
    arrow(ax, (81.5, 34.2), (81.5, 28.3), BOTH)
    label(ax, 82.5, 32.1, "tensors")
    schemas = "schemas, checks: torch's operators"
    operators = "lstm_forward   lstm_backward   lstm_step_"
    box(ax, (56, 19, 51, 9), CPP, "binding.cpp", schemas, operators)
    quick = ("past the dispatcher, by DLPack's", "table: a stack on its state, a layer")
    box(ax, (19, 19, 28, 9), CPP, "python_step, _sequence.cpp", *quick)
    arrow(ax, (81.5, 18.7), (81.5, 14.3), BOTH)
    label(ax, 82.5, 16.5, "params.h: plain structs")
    kernels = ("vector kernels, built once per instruction set,", "chosen at run time")
    box(ax, (56, 4.5, 51, 9.5), CPP, "cpu/", *kernels)
    equations = ("one step, forward and backward:", "the only place of the equations")
    box(ax, (19, 4.5, 28, 9.5), CPP, "cell.h", *equations)
    arrow(ax, (47.3, 9.2), (55.7, 9.2))
    label(ax, 51.5, 10.7, "included", ha="center")

    # The fast paths, past all that: inference, to where the state is written in place, and plain
    # sequences.
    ax.plot([18.7, 12.2, 12.2, 13.5], [75, 75, 23.5, 23.5], color=INK, lw=1.4, ls="--")
    arrow(ax, (13.5, 23.5), (18.7, 23.5), line="--")
    label(ax, 8.4, 47.5, "inference on a state:", rotation=90)
    label(ax, 10, 47.5, "h and c written in place", rotation=90)
    ax.plot([18.7, 15.5, 15.5], [58.5, 58.5, 32], color=INK, lw=1.4, ls="--")
    arrow(ax, (23.5, 32), (23.5, 28.3), line="--")
    ax.plot([15.5, 23.5], [32, 32], color=INK, lw=1.4, ls="--")
    label(ax, 16.5, 43, "short.py: plain stacks", rotation=90)
    ax.plot([36.5, 36.5, 62], [18.7, 16.5, 16.5], color=INK, lw=1.4, ls="--")
    arrow(ax, (62, 16.5), (62, 14.3), line="--")

    save(fig, path)


if __name__ == "__main__":
    main(draw, __file__)
