"""What the figures were measured on, and the most that machine can do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import stateful_lstm
from benchmarks.cpu.timing import Candidate, interleaved
from benchmarks.shapes import Shape

SIZES = [1 << power for power in range(17, 28)]  # bytes: from the L2 cache to main memory

# Of gates and cell of one unit: five functions, each of 16 instructions at the least, any of which
# could have been a multiply-add.
CELL_OPERATIONS = 160
IN_L1 = 1 << 18  # bytes of weights: what is smaller may lie where it is read faster than SIZES tell


def flop_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest large matrix product there is."""
    # Without instructions for bfloat16, float32 is the faster way to multiply such numbers. And
    # torch takes MKL for float32 where oneDNN may be twice as fast.
    dtypes = [dtype, torch.float32] if dtype == torch.bfloat16 else [dtype]
    pairs = [torch.randn(2, 1024, 1024).to(d) for d in dtypes]
    products = [Candidate("", partial(torch.mm, a, b)) for a, b in pairs]
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn is not None and torch.float32 in dtypes:
        a, b = pairs[-1]
        products.append(Candidate("", partial(onednn, a, b, None, "none", [], "")))
    return 2 * 1024**3 / min(timing.median for timing in interleaved(products, 0.5))


def read_rates() -> dict[int, float]:
    """Bytes a second at which a buffer of so many bytes is read, over and over.

    By the better of a sum and a product with a vector; a buffer that fits a larger, slower cache
    fits the faster ones too, so a small one counts as no slower than a large one.
    """
    rates: dict[int, float] = {}
    fastest = 0.0
    for size in reversed(SIZES):
        matrix, vector = torch.randn(size // 4096, 1024), torch.randn(1024)
        ways = [Candidate("", matrix.sum), Candidate("", partial(torch.mv, matrix, vector))]
        fastest = max(fastest, *(size / timing.median for timing in interleaved(ways, 0.2)))
        rates[size] = fastest
    return rates


Peaks = tuple[dict[int, float], dict[str, float]]  # what is read and multiplied a second


def peaks(dtypes: list[str]) -> Peaks:
    """The rates of reading, by size, and of products, by the dtype's name."""
    return read_rates(), {name: flop_rate(getattr(torch, name)) for name in dtypes}


def fastest(found: list[Peaks]) -> Peaks:
    """The best of some measurements: a slow moment of the machine is not its peak."""
    reads, flops = zip(*found, strict=True)
    return (
        {size: max(rates[size] for rates in reads) for size in reads[0]},
        {name: max(rates[name] for rates in flops) for name in flops[0]},
    )


def floor(
    shape: Shape, train: bool, name: str, flops: dict[str, float], reads: dict[int, float]
) -> tuple[float, str]:
    """Seconds at the peak, and the peak of what, where the numbers have the dtype of that name.

    A single step must read its weights, and every step of a sequence weight_hh, or multiply with
    it, if that takes longer; the other products and the cells come on top.
    """
    itemsize = getattr(torch, name).itemsize
    cells = shape.T * shape.B * shape.H * shape.layers * CELL_OPERATIONS / flops["float32"]
    products = shape.operations(train) / flops[name]
    if shape.T == 1:
        reading, computing = _reading(shape.weights() * itemsize, reads), products + cells
        return (reading, "bytes/s") if reading > computing else (computing, "FLOP/s")
    recurrent = 4 * shape.H * shape.H
    step = 2 * shape.B * recurrent / flops[name]
    size = recurrent * itemsize
    reading = _reading(size, reads) if size >= IN_L1 else 0.0
    steps = shape.T * shape.layers * (2 if train else 1)
    seconds = products + cells + steps * max(0.0, reading - step)
    return seconds, "bytes/s" if reading > step else "FLOP/s"


def _reading(size: int, reads: dict[int, float]) -> float:
    """Seconds to read so many bytes of weights, over and over."""
    return size / next((rate for s, rate in sorted(reads.items()) if s >= size), reads[SIZES[-1]])


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


class Others:
    """The share of the processors that others took since it was made; 0 if not known."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.busy = self._busy()

    def _busy(self) -> float:
        """Seconds of processor time of everyone but this process."""
        path = Path("/proc/stat")
        if not path.exists():
            return 0.0
        # user, nice, system, idle, iowait, irq, softirq, steal: what a virtual machine's host took
        ticks = [int(field) for field in path.read_text().splitlines()[0].split()[1:9]]
        return (sum(ticks[:3]) + sum(ticks[7:])) / os.sysconf("SC_CLK_TCK") - time.process_time()

    def share(self) -> float:
        available = (time.perf_counter() - self.begin) * (os.cpu_count() or 1)
        return max(0.0, self._busy() - self.busy) / available


def package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
        place = Path(__file__).parent
        done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def description() -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "packages": {name: package(name) for name in ("torch", "onnxruntime", "openvino")},
        "info": stateful_lstm.info(),
    }
