"""The machine of a benchmark run, and its peak rates."""

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

# For the gates and the cell of one unit: five functions of at least 16 instructions each, and each
# instruction could have been a multiply-add.
CELL_OPERATIONS = 160
IN_L1 = 1 << 18  # bytes: smaller weights may lie in a cache that is faster than any rate of SIZES


def flop_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest large matrix product in torch."""
    # On a processor without bfloat16 instructions, float32 products are faster. And torch takes MKL
    # for float32 where oneDNN may be twice as fast.
    dtypes = [dtype, torch.float32] if dtype == torch.bfloat16 else [dtype]
    pairs = [torch.randn(2, 1024, 1024).to(d) for d in dtypes]
    products = [Candidate("", partial(torch.mm, a, b)) for a, b in pairs]
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn is not None and torch.float32 in dtypes:
        a, b = pairs[-1]
        products.append(Candidate("", partial(onednn, a, b, None, "none", [], "")))
    return 2 * 1024**3 / min(timing.median for timing in interleaved(products, 0.5))


def read_rates() -> dict[int, float]:
    """Bytes per second of repeated reads of a buffer, by the buffer's size in bytes.

    The better of a sum and a product with a vector counts. A small buffer fits every cache that a
    large buffer fits, so it never counts as slower.
    """
    rates: dict[int, float] = {}
    fastest = 0.0
    for size in reversed(SIZES):
        matrix, vector = torch.randn(size // 4096, 1024), torch.randn(1024)
        reads = [Candidate("", matrix.sum), Candidate("", partial(torch.mv, matrix, vector))]
        fastest = max(fastest, *(size / timing.median for timing in interleaved(reads, 0.2)))
        rates[size] = fastest
    return rates


Peaks = tuple[dict[int, float], dict[str, float]]  # read rates and product rates, per second


def peaks(dtypes: list[str]) -> Peaks:
    """The read rates by size, and the product rates by the dtype's name."""
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
    """Seconds at the machine's peak for a dtype's name, and the peak's unit: bytes/s or FLOP/s.

    A single step must read its weights. Every step of a sequence must read weight_hh or multiply
    with it, whichever takes longer; the other products and the cells come on top.
    """
    itemsize = getattr(torch, name).itemsize
    cells = shape.T * shape.B * shape.H * shape.layers * CELL_OPERATIONS / flops["float32"]
    products = shape.operations(train) / flops[name]
    if shape.T == 1:
        reading, computing = _read_seconds(shape.weights() * itemsize, reads), products + cells
        return (reading, "bytes/s") if reading > computing else (computing, "FLOP/s")
    recurrent = 4 * shape.H * shape.H
    step = 2 * shape.B * recurrent / flops[name]
    size = recurrent * itemsize
    reading = _read_seconds(size, reads) if size >= IN_L1 else 0.0
    steps = shape.T * shape.layers * (2 if train else 1)
    seconds = products + cells + steps * max(0.0, reading - step)
    return seconds, "bytes/s" if reading > step else "FLOP/s"


def _read_seconds(size: int, reads: dict[int, float]) -> float:
    """Seconds of a repeated read of ``size`` bytes of weights."""
    return size / next((rate for s, rate in sorted(reads.items()) if s >= size), reads[SIZES[-1]])


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


class Others:
    """The share of the processors that other processes took since the creation; 0 if unknown."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.busy = self._busy()

    def _busy(self) -> float:
        """Seconds of processor time of all other processes."""
        path = Path("/proc/stat")
        if not path.exists():
            return 0.0
        # user, nice, system, idle, iowait, irq, softirq, steal (time of a virtual machine's host)
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


def program() -> list[str]:
    """The command that runs this program, without its arguments."""
    path, root = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parents[2]
    if root not in path.parents:
        return ["python", path.name]
    return ["python", "-m", ".".join(path.relative_to(root).with_suffix("").parts)]


def description() -> dict[str, Any]:
    """The machine, the command and the packages of this run."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "command": " ".join([*program(), *sys.argv[1:]]),
        "packages": {name: package(name) for name in ("torch", "onnxruntime", "openvino")},
        "info": stateful_lstm.info(),
    }
