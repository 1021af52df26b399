"""Runs all kernels in a few calls in which threads wait for each other: quick, for mutate.py.

python tests/emulator/smoke_kernels.py        # several orders of threads, then ThreadSanitizer
python tests/emulator/smoke_kernels.py tsan   # in this process, of this kind
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch
from torch import Tensor

from emulator import build, resident, sequence
from emulator.resident import Step
from emulator.sequence import Case

sequence.source = "smoke_kernels"
SIMT, TENSOR = "Simt<float, 1>", "Tensor<float, 1>"
BOUNDS = {SIMT: 1e-5}  # the largest error of a variant; on tensor cores:
TF32 = 1e-2
# Enough steps to reuse a buffer; enough units for several blocks and more than one piece of K.
CALLS = [
    *(("per_step", variant, 40, P) for variant in (SIMT, TENSOR) for P in (40, 21)),
    *(("persistent_block", variant, 40, 40) for variant in (SIMT, "TensorBlock<float, 64>")),
    *(("persistent_cluster", variant, 40, 40) for variant in (SIMT, "TensorCluster<float>")),
    *(("persistent_grid", variant, 70, 70) for variant in (SIMT, "TensorGrid<float, 1, 8>")),
    ("persistent_grid", "TensorGrid<float, 4, 16>", 20, 20),  # sums of one row tile after the other
]
STEPS = [  # of few rows, and of more
    Step(4, 7, 40, 21, torch.float32, rows=[2, 0, 5, 3], slots=6, resets=True),
    Step(17, 7, 40, 21, torch.float32, resets=True),
]
SEEDS = {"plain": (1, 2, 3), "tsan": (1,)}


def check(kind: str) -> None:
    for kernel, variant, H, P in CALLS:
        case = Case(4, 4, H, P, torch.float32, resets=True, lengths=True)
        forward, backward = sequence.truth(case)
        for seed in SEEDS[kind]:
            found = sequence.forward(case, kernel, variant, seed, kind)
            found |= sequence.backward(case, found, kernel, variant, seed, kind)
            compare(found, forward | backward, BOUNDS.get(variant, TF32))
    for variant, step in itertools.product((SIMT, TENSOR), STEPS):
        for seed in SEEDS[kind]:
            found = resident.run(step, variant, seed, kind)
            compare(found, resident.truth(step), BOUNDS.get(variant, TF32))
    backwards = list(range(64))[::-1]  # each row's slot is initialized by a thread of another warp
    for seed in SEEDS[kind]:
        rows, error = sequence.kernels(kind).read_slots(backwards, 64, seed)
        assert (rows.tolist(), error) == (backwards, 0)
        if kind == "plain":  # any row of a slot may win: an intended race
            rows, error = sequence.kernels(kind).read_slots([*range(63), 0], 63, seed)
            assert (sorted(rows), error) == ([-1, *range(63)], 2)


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    for name, t in expected.items():
        torch.testing.assert_close(found[name].double(), t, rtol=bound, atol=bound)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        check(sys.argv[1])
        sys.exit()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(
            build.build, "smoke_kernels", [build.HERE / "smoke_kernels.cpp"], [], "tsan"
        )
        check("plain")
        other.result()
    command = [sys.executable, __file__, "tsan"]
    sys.exit(subprocess.run(command, env=build.environment("tsan"), check=False).returncode)
