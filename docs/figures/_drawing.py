"""Shared by the figures: colours, boxes, arrows, and how a file is written."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package, as docs/conf.py has it

import matplotlib as mpl

mpl.use("Agg")
# The same bytes at every run, so that git shows a change only where there is one.
mpl.rcParams["svg.hashsalt"] = "stateful_lstm"
mpl.rcParams["font.family"] = "DejaVu Sans"  # comes with matplotlib

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

BLUE, ORANGE, GREEN, GREY = "#dbe9f6", "#fbe3cf", "#dff0d8", "#eeeeee"
VIOLET, YELLOW = "#e6dcf2", "#fbf3c4"
INK, QUIET, RED = "#222222", "#666666", "#c0392b"
CENTRED = {"ha": "center", "va": "center"}
MONO = "DejaVu Sans Mono"


def canvas(width, height):
    """A figure and axes of so many tenths of an inch, without any frame."""
    fig, ax = plt.subplots(figsize=(width / 10, height / 10))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    fig.subplots_adjust(0, 0, 1, 1)
    return fig, ax


def rounded(ax, place, fill, edge):
    x, y, width, height = place
    style = "round,pad=0,rounding_size=0.8"
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=fill, ec=edge, lw=1))


def box(ax, place, colour, name, *lines):
    """A box at (x, y, width, height): a name over what it stands for."""
    rounded(ax, place, colour, INK)
    x, y, width, height = place
    middle = x + width / 2
    ax.text(middle, y + height - 1.1, name, ha="center", va="top", weight="bold", color=INK)
    text = "\n".join(lines)
    ax.text(middle, y + height / 2 - 1.3, text, size=8.5, color=INK, linespacing=1.35, **CENTRED)


def arrow(ax, start, end, style="->", line="-", color=INK):
    look = {"arrowstyle": style, "ls": line, "lw": 1.4, "color": color}
    ax.annotate("", xy=end, xytext=start, arrowprops=look)


def label(ax, x, y, text, **where):
    where = {"va": "center", "color": QUIET, "size": 8, **where}
    ax.text(x, y, text, style="italic", linespacing=1.3, **where)


def save(fig, path):
    # A date would change the file at every run.
    fig.savefig(path, dpi=110, metadata={"Date": None} if str(path).endswith(".svg") else None)
    plt.close(fig)


def main(draw, script):
    """Draws into the file that the command line names, or beside the script."""
    draw(sys.argv[1] if len(sys.argv) > 1 else Path(script).with_suffix(".svg"))
