"""Times short inference with packed weights, with weights in place, and with the library's choice.

The library chooses once per process, so each variant has its own process, and the processes take
turns. The first table gives packed / in place: above 1, in place is faster. The second table gives
the library's choice / the better variant. All values are medians of the rounds' ratios.

    python -m benchmarks.studies.packing
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torch

from benchmarks.studies.env_variants import in_turns, ratio, serve, timed
from stateful_lstm import StatefulLSTM

DTYPES = (torch.float32, torch.bfloat16)
SIZES = (32, 64, 100, 128, 192, 256, 384, 512)
STEPS = [(8, 1), (16, 1), (32, 1), (64, 1), (8, 2), (16, 2), (32, 2), (8, 4), (16, 4)]  # T, B
MODULE = "benchmarks.studies.packing"
VARIANTS = ("always", "never", "auto")
ROWS = [(dtype, H, steps) for dtype in DTYPES for H in SIZES for steps in STEPS]


def measure(row: int) -> float:
    """Seconds per call."""
    dtype, H, (T, B) = ROWS[row]
    lstm = StatefulLSTM(H, H, dtype=dtype, stateful=False).eval()
    with torch.inference_mode():
        return timed(partial(lstm, torch.randn(T, B, H, dtype=dtype)), 0.03)


def table(name: str, ratios: list[float]) -> None:
    print(f"\n{name:24}" + "".join(f"{f'{T}, {B}':>8}" for T, B in STEPS))
    rows = [f"{str(dtype)[6:]:10}H = {H}" for dtype in DTYPES for H in SIZES]
    for k, row in enumerate(rows):
        each = ratios[k * len(STEPS) : (k + 1) * len(STEPS)]
        print(f"{row:24}" + "".join(f"{ratio:8.2f}" for ratio in each))


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        serve(measure)
        return
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    found = in_turns(MODULE, "STATEFUL_LSTM_PACK", VARIANTS, len(ROWS), rounds=5)
    packed, in_place, own = (found[variant] for variant in VARIANTS)
    table("packed / in place", list(map(ratio, packed, in_place)))
    worse = (map(ratio, own, variant) for variant in (packed, in_place))
    table("choice / better", list(map(max, *worse)))


if __name__ == "__main__":
    main()
