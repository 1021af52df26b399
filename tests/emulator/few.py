"""All kernels, in few calls that yet have every thread wait for every other: quick, for mutate.py.

python tests/emulator/few.py          # in several orders of threads, then under ThreadSanitizer
python tests/emulator/few.py tsan     # in this process, of this kind
"""

from __future__ import annotations

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

sequence.source = "few"
WAYS = {"Simt<float, 1>": 1e-5, "Tensor<float, 1>": 1e-2}  # and how far it may be off
# Steps enough for a buffer to be used again; units enough for several blocks, and for more than one
# piece of what is multiplied.
SIZES = [("steps", 40, 40), ("steps", 40, 21), ("small", 40, 40), ("cluster", 40, 40)]
CASES = [
    (kernel, Case(4, 4, H, P, torch.float32, resets=True, lengths=True))
    for kernel, H, P in [*SIZES, ("grid", 70, 70)]
]
STEP = Step(4, 7, 40, 21, torch.float32, rows=[2, 0, 5, 3], slots=6, resets=True)
SEEDS = {"plain": (1, 2, 3), "tsan": (1,)}


def check(kind: str) -> None:
    for way, bound in WAYS.items():
        for kernel, case in CASES:
            forward, backward = sequence.truth(case)
            for seed in SEEDS[kind]:
                found = sequence.forward(case, kernel, way, seed, kind)
                found |= sequence.backward(case, found, kernel, way, seed, kind)
                compare(found, forward | backward, bound)
        for seed in SEEDS[kind]:
            compare(resident.run(STEP, way, seed, kind), resident.truth(STEP), bound)
    backwards = list(range(64))[::-1]  # each is looked after by another warp than its number
    for seed in SEEDS[kind]:
        rows, error = sequence.kernels(kind).read_slots(backwards, 64, seed)
        assert (rows.tolist(), error) == (backwards, 0)
        if kind == "plain":  # of rows with one slot any may win: a race that is meant
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
        other = pool.submit(build.build, "few", [build.HERE / "few.cpp"], [], "tsan")
        check("plain")
        other.result()
    command = [sys.executable, __file__, "tsan"]
    sys.exit(subprocess.run(command, env=build.environment("tsan"), check=False).returncode)
