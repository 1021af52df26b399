"""Draws cuda_kernels.svg: where each CUDA kernel holds weight_hh, and which way h takes.

python docs/figures/cuda_kernels.py [FILE]    (any format that matplotlib knows)
"""

from _drawing import (
    BLUE,
    CENTRED,
    GREY,
    INK,
    MONO,
    ORANGE,
    QUIET,
    arrow,
    canvas,
    label,
    main,
    rounded,
    save,
)
from matplotlib.patches import Rectangle

LEFT, WIDTH, GAP = 3, 23, 4.5  # of the four columns
BLOCKS_LOW, BLOCK_HIGH = 21, 17
MEMORY_LOW, MEMORY_HIGH = 9, 5.5
# Name, the share of weight_hh in each block's shared memory, what works together and how it waits.
KERNELS = (
    ("persistent_block", ("all\nunits",), "a block, which waits\nfor its own threads"),
    (
        "persistent_cluster",
        ("its\nunits",) * 3,
        "up to 8 blocks, which wait\nat the cluster's barrier",
    ),
    (
        "persistent_grid",
        ("its\nunits",) * 3,
        "all that fit on the device,\nwhich wait for counters",
    ),
    ("per_step", ("piece\nby piece",) * 3, "any number of blocks,\nand a launch for each step"),
)


def draw(path):
    fig, ax = canvas(112, 50)
    for column, (name, shares, waits) in enumerate(KERNELS):
        x = LEFT + column * (WIDTH + GAP)
        middle = x + WIDTH / 2
        ax.text(middle, 47.5, name, size=11, weight="bold", family=MONO, color=INK, **CENTRED)
        label(ax, middle, 43, waits, ha="center")
        places = blocks(ax, x, shares)
        exchange(ax, name, x, places)
    label(ax, LEFT, 4, "blocks of threads, each with its shared memory:", ha="left")
    swatch(ax, 41, ORANGE, "weight_hh")
    swatch(ax, 55, BLUE, "h of a step")
    swatch(ax, 70, GREY, "memory, mostly the L2 cache")
    save(fig, path)


def blocks(ax, x, shares):
    """A column's blocks, side by side; the x of each one's middle."""
    wide = min(10, (WIDTH - 2 * (len(shares) - 1)) / len(shares))
    begin = x + (WIDTH - len(shares) * wide - 2 * (len(shares) - 1)) / 2
    middles = []
    for number, share in enumerate(shares):
        low = begin + number * (wide + 2)
        rounded(ax, (low, BLOCKS_LOW, wide, BLOCK_HIGH), "white", INK)
        held = (low + 0.7, BLOCKS_LOW + 6.2), wide - 1.4, BLOCK_HIGH - 7
        ax.add_patch(Rectangle(*held, fc=ORANGE, ec=QUIET, lw=0.6))
        middle = low + wide / 2
        ax.text(middle, BLOCKS_LOW + 11.2, share, size=7, color=INK, **CENTRED)
        ax.add_patch(
            Rectangle((low + 0.7, BLOCKS_LOW + 0.9), wide - 1.4, 4.2, fc=BLUE, ec=QUIET, lw=0.6)
        )
        ax.text(middle, BLOCKS_LOW + 3, "h", size=9, color=INK, **CENTRED)
        middles.append(middle)
    return middles


def exchange(ax, name, x, middles):
    """How h comes from one step to the next, and weights to where they are multiplied."""
    bottom = BLOCKS_LOW
    if name == "persistent_block":
        around(ax, middles[0], bottom)
        label(ax, x + WIDTH / 2, MEMORY_LOW + 4.5, "h stays in the block", ha="center")
        return
    if name == "persistent_cluster":
        for one, other in ((0, 1), (1, 2)):
            arrow(ax, (middles[one] + 2, bottom + 3), (middles[other] - 2, bottom + 3), "<->")
        far = {"arrowstyle": "<->", "lw": 1.4, "color": INK, "connectionstyle": "arc3,rad=0.35"}
        ends = {"xy": (middles[2], bottom + 0.6), "xytext": (middles[0], bottom + 0.6)}
        ax.annotate("", **ends, arrowprops=far)
        text = "h goes into all blocks'\nshared memory"
        label(ax, x + WIDTH / 2, MEMORY_LOW + 3.5, text, ha="center")
        return
    ax.add_patch(Rectangle((x, MEMORY_LOW), WIDTH, MEMORY_HIGH, fc=GREY, ec=INK, lw=0.8))
    text = "h" if name == "persistent_grid" else "h and weight_hh"
    ax.text(x + WIDTH / 2, MEMORY_LOW + MEMORY_HIGH / 2, text, size=9, color=INK, **CENTRED)
    for middle in middles:
        down, up = middle - 1.1, middle + 1.1
        arrow(ax, (down, bottom - 0.3), (down, MEMORY_LOW + MEMORY_HIGH + 0.3))
        arrow(ax, (up, MEMORY_LOW + MEMORY_HIGH + 0.3), (up, bottom - 0.3))


def around(ax, middle, bottom):
    """h's way from a block to itself."""
    x = [middle - 2, middle - 2, middle + 2]
    ax.plot(x, [bottom - 0.3, bottom - 3, bottom - 3], color=INK, lw=1.4)
    arrow(ax, (middle + 2, bottom - 3.2), (middle + 2, bottom - 0.3))


def swatch(ax, x, colour, text):
    ax.add_patch(Rectangle((x, 3.1), 2.2, 2, fc=colour, ec=QUIET, lw=0.6))
    label(ax, x + 3, 4, text, ha="left")


if __name__ == "__main__":
    main(draw, __file__)
