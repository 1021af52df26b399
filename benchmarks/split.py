"""Times the recurrence shared out by rows, by units, and as the library itself decides.

Each way runs in processes of its own (the choice is made once in a process), three times turn
about; the table gives ratios of medians, rows over units, and what the library's choice costs
beside the better of the two.

    python benchmarks/split.py
"""

from __future__ import annotations

import json
import sys
from functools import partial
from statistics import median

import torch
from ways import in_processes, timed

from stateful_lstm import ops

# T steps, B rows, H.
SHAPES = [
    (1000, 1, 50),
    (16, 1, 256),
    (16, 1, 512),
    (16, 4, 256),
    (16, 8, 256),
    (16, 16, 256),
    (100, 32, 128),
    (32, 64, 256),
    (16, 64, 512),
    (16, 4, 1024),
    (16, 16, 1024),
]
WAYS = ("rows", "units", "auto")
Times = list[tuple[float, float]]  # seconds forward and backward, of each dtype and shape


def measure() -> Times:
    """All shapes in float32, then in float64."""
    times = []
    for dtype in (torch.float32, torch.float64):
        for T, B, H in SHAPES:
            x, w = torch.randn(T, B, H, dtype=dtype), torch.randn(4 * H, H, dtype=dtype) / H**0.5
            h, c = torch.randn(2, B, H, dtype=dtype)
            grad = torch.randn(T, B, H, dtype=dtype)
            forward = x, w, w, None, None, None, h, c, None, None, None, False, 2
            _, _, _, gates, cells = ops.lstm_forward(*forward)
            backward = grad, None, None, gates, cells, w, None, c, None, None, None, False
            times.append(
                (
                    timed(partial(ops.lstm_forward, *forward)),
                    timed(partial(ops.lstm_backward, *backward)),
                )
            )
    return times


def main() -> None:
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measure()))
        return
    runs: dict[str, list[Times]] = in_processes(__file__, "STATEFUL_LSTM_SPLIT", WAYS, times=3)
    print(f"{'':24}rows / units        choice / better")
    print(
        f"{'dtype':9}{'T, B, H':>15}{'forward':>10}{'backward':>10}{'forward':>10}{'backward':>10}"
    )
    for k, (dtype, shape) in enumerate((d, s) for d in ("float32", "float64") for s in SHAPES):
        line = f"{dtype:9}{', '.join(map(str, shape)):>15}"
        each = {
            way: [median(run[k][direction] for run in runs[way]) for direction in (0, 1)]
            for way in WAYS
        }
        for r, u in zip(each["rows"], each["units"], strict=True):
            line += f"{r / u:>10.2f}"
        for r, u, own in zip(each["rows"], each["units"], each["auto"], strict=True):
            line += f"{own / min(r, u):>10.2f}"
        print(line)


if __name__ == "__main__":
    main()
