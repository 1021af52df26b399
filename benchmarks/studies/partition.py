"""Times the recurrence partitioned by rows, by units, and by the library's choice.

The library chooses once per process, so each variant has its own process, and the processes take
turns. The table gives rows / units, and the library's choice / the better variant, as medians of
the rounds' ratios.

    python -m benchmarks.studies.partition
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torch

from benchmarks.studies.env_variants import in_turns, ratio, serve, timed
from stateful_lstm.backend import operators
from stateful_lstm.backend.layer_stack import accumulation_dtype

# T steps, B rows, H.
SHAPES = [
    (1000, 1, 50),
    (50, 1, 64),
    (50, 1, 100),
    (16, 1, 256),
    (16, 1, 512),
    (50, 2, 100),
    (50, 3, 100),
    (50, 4, 64),
    (50, 4, 100),
    (50, 4, 128),
    (16, 4, 256),
    (16, 4, 1024),
    (50, 8, 64),
    (50, 8, 128),
    (50, 8, 200),
    (16, 8, 256),
    (16, 8, 512),
    (16, 16, 256),
    (20, 16, 384),
    (16, 16, 1024),
    (100, 32, 128),
    (20, 32, 512),
    (32, 64, 256),
    (16, 64, 512),
]
MODULE = "benchmarks.studies.partition"
VARIANTS = ("rows", "units", "auto")
ROWS = [
    (dtype, shape) for dtype in (torch.float32, torch.bfloat16, torch.float64) for shape in SHAPES
]


def measure(row: int) -> tuple[float, float]:
    """Seconds of a forward and of a backward call."""
    dtype, (T, B, H) = ROWS[row]
    x, w = torch.randn(T, B, H, dtype=dtype), torch.randn(4 * H, H, dtype=dtype) / H**0.5
    h, c = torch.randn(B, H, dtype=dtype), torch.randn(B, H, dtype=accumulation_dtype(dtype))
    grad = torch.randn(T, B, H, dtype=dtype)
    forward = x, w, w, None, None, None, h, c, None, None, None, False, 2
    y, _, _, gates, cells = operators.lstm_forward(*forward)
    saved = gates, cells, x, y, h, c, w, w, None, None, None, None, False
    backward = grad, None, None, *saved, None, None, None, 0  # no gradients but the recurrence's
    run = partial(operators.lstm_forward, *forward), partial(operators.lstm_gradients, *backward)
    return timed(run[0], 0.06), timed(run[1], 0.06)


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        serve(measure)
        return
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    found = in_turns(MODULE, "STATEFUL_LSTM_SPLIT", VARIANTS, len(ROWS), rounds=5)
    print(f"{'':24}rows / units        choice / better")
    print(
        f"{'dtype':9}{'T, B, H':>15}{'forward':>10}{'backward':>10}{'forward':>10}{'backward':>10}"
    )
    for k, (dtype, shape) in enumerate(ROWS):
        line = f"{str(dtype)[6:]:9}{', '.join(map(str, shape)):>15}"
        rows, units, own = (list(zip(*found[variant][k], strict=True)) for variant in VARIANTS)
        for direction in (0, 1):
            line += f"{ratio(rows[direction], units[direction]):>10.2f}"
        for direction in (0, 1):
            costs = (ratio(own[direction], variant[direction]) for variant in (rows, units))
            line += f"{max(costs):>10.2f}"
        print(line)


if __name__ == "__main__":
    main()
