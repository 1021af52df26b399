"""What the examples share: their arguments, and where a picture goes."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure


def options(text: str, quick: str) -> argparse.Namespace:
    """--quick, which `quick` explains, and --out. Nets as small as these want a single thread."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, default=Path("build/examples"), metavar="DIR")
    torch.set_num_threads(1)
    return parser.parse_args()


def save(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / name, dpi=150)
    plt.close(figure)
    print(folder / name)
