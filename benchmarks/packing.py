"""Times short inference with its weights packed, read in place, and as the library itself decides.

Each way runs in processes of its own (the choice is made once in a process), five times turn
about; the tables give ratios of medians, first packed over in place: above 1 in place is quicker.
Then what the library's choice takes, over the better of the two.

    python benchmarks/packing.py
"""

from __future__ import annotations

import json
import sys
from functools import partial
from statistics import median

import torch
from ways import in_processes, timed

from stateful_lstm import StatefulLSTM

DTYPES = (torch.float32, torch.bfloat16)
SIZES = (32, 64, 100, 128, 192, 256, 384, 512)
STEPS = [(8, 1), (16, 1), (32, 1), (64, 1), (8, 2), (16, 2), (32, 2), (8, 4), (16, 4)]  # T, B
WAYS = ("always", "never", "auto")


def measure() -> list[float]:
    """Seconds of each dtype, size and number of steps and rows."""
    times = []
    for dtype in DTYPES:
        for H in SIZES:
            lstm = StatefulLSTM(H, H, dtype=dtype, stateful=False).eval()
            for T, B in STEPS:
                with torch.inference_mode():
                    times.append(timed(partial(lstm, torch.randn(T, B, H, dtype=dtype)), 0.03))
    return times


def table(name: str, ratios: list[float]) -> None:
    print(f"\n{name:24}" + "".join(f"{f'{T}, {B}':>8}" for T, B in STEPS))
    rows = [f"{str(dtype)[6:]:10}H = {H}" for dtype in DTYPES for H in SIZES]
    for k, row in enumerate(rows):
        each = ratios[k * len(STEPS) : (k + 1) * len(STEPS)]
        print(f"{row:24}" + "".join(f"{ratio:8.2f}" for ratio in each))


def main() -> None:
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measure()))
        return
    runs = in_processes(__file__, "STATEFUL_LSTM_PACK", WAYS, times=5)
    packed, in_place, own = (
        [median(each) for each in zip(*runs[way], strict=True)] for way in WAYS
    )
    table("packed / in place", [p / q for p, q in zip(packed, in_place, strict=True)])
    better = map(min, packed, in_place)
    table("choice / better", [o / b for o, b in zip(own, better, strict=True)])


if __name__ == "__main__":
    main()
