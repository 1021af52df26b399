"""Shared parts of the examples: their arguments, and the files of their figures."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure


def options(text: str, quick: str) -> argparse.Namespace:
    """Parses --quick, which `quick` explains, and --out. One thread is fastest for small nets."""
    torch.set_num_threads(1)
    return arguments(text, quick)


def arguments(text: str, quick: str) -> argparse.Namespace:
    """Parses --quick, which `quick` explains, and --out; the number of threads stays."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, default=Path("build/examples"), metavar="DIR")
    return parser.parse_args()


def save(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / name, dpi=150)
    plt.close(figure)
    print(folder / name)
