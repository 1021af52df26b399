"""Times this library on the CPU against nn.LSTM and against a Python loop over steps.

The candidates of a shape run interleaved in one process, after a warm-up, on random inputs; the
table gives medians and their ratios, losing shapes first. Milliseconds are of this machine at this
moment; only the ratios compare. The last column is the share of the machine's peak: of the rate at
which its library multiplies large matrices, measured at the start.

    python benchmarks/bench.py [--quick] [--out build/bench] [--seconds 0.5]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from tqdm import tqdm

import stateful_lstm
from stateful_lstm import StatefulLSTM

# T steps, B rows, I = H.
SHAPES = [
    (1, 1, 64),
    (1, 1, 256),
    (1, 16, 256),
    (1, 64, 512),
    (2, 16, 256),
    (16, 1, 256),
    (16, 32, 192),
    (100, 32, 128),
    (128, 64, 256),
    (32, 64, 512),
    (16, 16, 1024),
    (1000, 1, 50),
    (200, 8, 256),
]
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
NAMES = ("ours", "nn.LSTM", "loop")


def loop_over_steps(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """The plain loop that one writes when nn.LSTM will not do: one step at a time."""
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    h = c = x.new_zeros(x.size(1), lstm.hidden_size)
    outputs = []
    gates_x = nn.functional.linear(x, w_ih, b_ih + b_hh)
    for t in range(x.size(0)):
        i, f, g, o = (gates_x[t] + h @ w_hh.T).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


def interleaved(candidates: list[Callable[[], object]], seconds: float) -> list[float]:
    """Median milliseconds of each, taking turns for about so many seconds in all."""
    end = time.perf_counter() + seconds
    for run in candidates:  # warm up
        run()
    times: list[list[float]] = [[] for _ in candidates]
    while time.perf_counter() < end or len(times[0]) < 3:
        for run, taken in zip(candidates, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append((time.perf_counter() - start) * 1e3)
    return [median(taken) for taken in times]


def measure(T: int, B: int, H: int, dtype: torch.dtype, train: bool, seconds: float) -> list[float]:
    """Medians for one shape, in the order of NAMES."""
    torch.manual_seed(0)
    theirs = nn.LSTM(H, H, dtype=dtype)
    ours = StatefulLSTM(H, H, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, H, dtype=dtype)
    grad = torch.randn(T, B, H, dtype=dtype)
    forwards: list[Callable[[], Tensor]] = [
        lambda: ours(x)[0],
        lambda: theirs(x)[0],
        lambda: loop_over_steps(theirs, x),
    ]
    if not train:
        with torch.no_grad():
            return interleaved(list(forwards), seconds)

    def training(forward: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: forward().backward(grad)

    return interleaved([training(forward) for forward in forwards], seconds)


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product; of float32 for bfloat16."""
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    a, b = torch.randn(2, 1024, 1024, dtype=wide)
    return 2 * 1024**3 / (interleaved([lambda: a @ b], 1.0)[0] * 1e-3)


def operations(T: int, B: int, H: int, train: bool) -> int:
    """Of the products alone: two per multiply-add; backward takes twice what forward does."""
    return (3 if train else 1) * 2 * T * B * 4 * H * 2 * H


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few shapes, float32 only")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row")
    options = parser.parse_args()
    shapes = SHAPES[1:11:4] if options.quick else SHAPES
    dtypes = ["float32"] if options.quick else list(DTYPES)

    peaks = {d: peak(DTYPES[d]) for d in dtypes}
    work = [(d, train, s) for d in dtypes for train in (False, True) for s in shapes]
    rows = []
    for dtype, train, (T, B, H) in tqdm(work, desc="timing", unit="shape"):
        ms = measure(T, B, H, DTYPES[dtype], train, options.seconds)
        rows.append(
            {
                "dtype": dtype,
                "mode": "train" if train else "infer",
                "shape": [T, B, H],
                "ms": dict(zip(NAMES, ms, strict=True)),
                "nn.LSTM/ours": ms[1] / ms[0],
                "loop/ours": ms[2] / ms[0],
                "share of peak": operations(T, B, H, train) / (ms[0] * 1e-3) / peaks[dtype],
            }
        )
    rows.sort(key=lambda row: min(row["nn.LSTM/ours"], row["loop/ours"]))

    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "peak GFLOP/s": {d: round(rate / 1e9, 1) for d, rate in peaks.items()},
        "info": stateful_lstm.info(),
    }
    print(
        f"peak, GFLOP/s: {machine['peak GFLOP/s']}\n\n"
        f"{'dtype':9} {'mode':6} {'T, B, H':>15} {'ours ms':>9} {'nn.LSTM':>9} {'loop':>9}",
        end="",
    )
    print(f" {'nn/ours':>8} {'loop/ours':>9} {'of peak':>8}")
    for row in rows:
        shape = ", ".join(map(str, row["shape"]))
        times = " ".join(f"{ms:9.3f}" for ms in row["ms"].values())
        print(f"{row['dtype']:9} {row['mode']:6} {shape:>15} {times}", end="")
        print(f" {row['nn.LSTM/ours']:7.2f}x {row['loop/ours']:8.2f}x {row['share of peak']:8.0%}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cpu.json"
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
