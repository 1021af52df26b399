"""Makes small calls that reach every CUDA kernel, for compute-sanitizer (`make gpu-sanitize`).

    compute-sanitizer --tool memcheck|racecheck|synccheck python tests/gpu/sanitize.py [--quick]

Which kernel a call gets depends on H, rows, type and projection (csrc/cuda/select_kernel.h): up to
H = 128 one block for some rows; above it clusters, then a grid of blocks that wait for each other;
one launch a step for projections and where nothing else fits; and single steps on resident state.
Every call is compared with the reference, to detect faults that no tool sees.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [
    str(HERE),
    str(ROOT / "tests/helpers"),
    str(ROOT / "tests"),
    str(ROOT),
]  # as pytest does

import torch  # noqa: E402
from comparisons import error, results, settings  # noqa: E402
from gpu_support import (  # noqa: E402
    DEVICE,
    MODES,
    Case,
    inputs,
    ours,
    precision,
    problem,
    weights_of,
    why_not,
)

from stateful_lstm import reference  # noqa: E402

# T, B, H, I, layers, both directions, projection. Rows: few, and more than one tile's.
CASES = [
    Case(3, 3, 7, 5),
    Case(3, 17, 64, 5, 2),
    Case(3, 17, 72, 8),
    Case(3, 17, 128, 8),
    Case(3, 3, 192, 8),
    Case(3, 17, 256, 8),
    Case(3, 3, 512, 8),
    Case(2, 17, 640, 8),
    Case(2, 3, 1024, 8),
    Case(2, 40, 1024, 8),
    Case(2, 130, 640, 8),
    Case(2, 130, 256, 8),
    Case(2, 128, 512, 8),
    Case(2, 300, 512, 8),
    Case(3, 17, 40, 5, 1, False, 24),
    Case(3, 3, 20, 5, 1, True),
]
QUICK = [CASES[0], CASES[1], CASES[7]]
# Loose, to tell a wrong number from rounding only. The tests beside this file are strict.
FAR = {"float64": 1e-9, "float32": 1e-4, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 0.1}


def agree(found, true, mode, what):
    for name, t in found.items():
        off = error(t.detach().cpu(), true[name].detach())
        if not off <= FAR[mode]:
            sys.exit(f"{what}: {name} is off by {off:.1e}")


def sequence(case, mode):
    """Forward and backward with resets and lengths, then the same without gradients."""
    reset = torch.zeros(case.T, case.B, dtype=torch.bool)
    reset[1, ::2] = True
    lengths = case.T - torch.arange(case.B) % (case.T + 1)
    exact, x, hx = problem(case)
    weights, control = list(exact.parameters()), {"reset_mask": reset, "lengths": lengths}

    def specified(x, hx):
        return reference.lstm(x, hx, weights, **settings(exact), **control)

    true = results(specified, x, hx, weights_of(exact))
    lstm = ours(case, mode, stateful=False)
    x, hx = inputs(case, mode)
    here = {name: t.to(DEVICE) for name, t in control.items()}
    found = results(lambda x, hx: lstm(x, hx, **here), x, hx, weights_of(lstm))
    agree(found, true, mode, f"{case} {mode}")
    with torch.no_grad():
        agree({"output": lstm(x, hx, **here)[0]}, true, mode, f"{case} {mode}, inference")


def step(case, mode):
    """Single steps on resident state: row by row, then by slots with padding and a reset."""
    exact, x, hx = problem(case)
    true, _ = reference.lstm(x[:2], hx, list(exact.parameters()), **settings(exact))
    lstm = ours(case, mode)
    x, hx = inputs(case, mode)
    lstm.allocate_state(case.B).write(hx)
    rows = torch.arange(case.B, device=DEVICE).flip(0)
    with torch.no_grad():
        found = torch.cat([lstm(x[:1])[0], lstm(x[1:2].flip(1), state_indices=rows)[0].flip(1)])
        if not case.both:
            agree({"output": found}, {"output": true}, mode, f"{case} {mode}, steps")
        rows[0] = -1
        lstm(x[:1], state_indices=rows, reset_mask=torch.ones_like(x[:1, :, 0], dtype=torch.bool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three shapes")
    options = parser.parse_args()
    lacking = why_not()
    if lacking:
        sys.exit(lacking)
    begin = time.perf_counter()
    for case in QUICK if options.quick else CASES:
        for mode in MODES:
            with precision(mode):
                sequence(case, mode)
                step(case, mode)
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()  # so that a fault is reported with the next printed line
            print(f"{time.perf_counter() - begin:6.1f} s  {case} {mode}", flush=True)


if __name__ == "__main__":
    main()
