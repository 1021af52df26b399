"""``python -m stateful_lstm``: the build and the machine, and the CUDA kernel of a call.

python -m stateful_lstm                      the result of info()
python -m stateful_lstm plan 512 16 1024     T steps, B rows, H units; see plan --help
python -m stateful_lstm --version
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from ._version import __version__
from .backend import cuda
from .info import info


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    whole = argparse.ArgumentParser(prog="python -m stateful_lstm")
    whole.add_argument("--version", action="version", version=f"stateful_lstm {__version__}")
    plan = whole.add_subparsers(dest="command").add_parser(
        "plan", help="the CUDA kernel of a call, and the reason"
    )
    for name, meaning in (("T", "steps"), ("B", "rows"), ("H", "hidden size")):
        plan.add_argument(name, type=int, help=meaning)
    plan.add_argument("--proj-size", type=int, default=0)
    plan.add_argument(
        "--dtype",
        choices=[str(dtype).removeprefix("torch.") for dtype in cuda.DTYPES],
        default="float32",
    )
    plan.add_argument("--tf32", action="store_true", help="allow TF32 for float32 products")
    plan.add_argument("--why", action="store_true", help="why each other kernel does not fit")
    plan.add_argument(
        "--chip", choices=cuda.KNOWN, help="default: the GPUs present, or else all known chips"
    )
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit status."""
    given = parser().parse_args(arguments)
    if given.command is None:
        print(json.dumps(info(), indent=1))
        return 0
    for name in ("T", "B", "H"):
        if getattr(given, name) < 1:
            print(f"{name} must be 1 or more, got {getattr(given, name)}", file=sys.stderr)
            return 2
    if cuda.missing():
        print(f"there is no plan: {cuda.missing()}", file=sys.stderr)
        return 1
    chips = {given.chip: cuda.KNOWN[given.chip]} if given.chip else cuda.present() or cuda.KNOWN
    for chip, device in chips.items():
        for backward in (False, True):
            text = cuda.plan(
                given.T,
                given.B,
                given.H,
                device=device,
                proj_size=given.proj_size,
                dtype=getattr(torch, given.dtype),
                tf32=given.tf32,
                backward=backward,
            )
            shown = text if given.why else cuda.brief(text)
            print(f"{chip}, {'backward' if backward else 'forward'}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
