"""The toy kernels (toys.h) from Python, and the expected results of the right ones.

python tests/emulator/toys.py                 # checks them all, plainly and under ThreadSanitizer
python tests/emulator/toys.py tsan ring       # in this process, of this kind: one check
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from emulator import build

KERNELS = [build.HERE / "toys.cpp", build.HERE / "wrong_toys.cpp"]
BINDING = [build.HERE / "toys_module.cpp"]


def load(kind: str = "plain") -> ModuleType:
    return build.load("toys", KERNELS, BINDING, kind)


def numbers(*shape: int) -> np.ndarray:
    """Small integers: their sums are exact, whatever the order."""
    return np.random.default_rng(sum(shape)).integers(-8, 9, shape).astype(np.float32)


def nans(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def flags(count: int) -> np.ndarray:
    return np.zeros(count, np.uint32)


def block_sum(toys: ModuleType, seed: int) -> None:
    x, sums = numbers(2, 64), nans(2)
    toys.block_sum(x, sums, 2, 64, seed)
    np.testing.assert_array_equal(sums, x.sum(1))


def warp_sum(toys: ModuleType, seed: int) -> None:
    x, sums = numbers(64), nans(64)
    toys.warp_sum(x, sums, 64, seed)
    warps = x.reshape(2, 32)
    np.testing.assert_array_equal(
        sums.reshape(2, 32).T, np.stack([warps.sum(1) + warps[:, 31]] * 32)
    )


def warp_reverse(toys: ModuleType, seed: int) -> None:
    x, y = numbers(64), nans(64)
    toys.warp_reverse(x, y, 64, seed)
    np.testing.assert_array_equal(y.reshape(2, 32), x.reshape(2, 32)[:, ::-1])


def mma(toys: ModuleType, seed: int) -> None:
    """Numbers with rounding errors, so that a wrong rounding shows."""
    K = 48
    random = np.random.default_rng(1)
    a, b, d = (random.standard_normal(n).astype(np.float32) for n in ((16, K), (K, 8), (16, 8)))
    tf32 = [(x.view(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32) for x in (a, b)]
    for name, given, rounded in (
        ("half", *of_16_bits(a, b, toys.to_half, toys.half)),
        ("bfloat16", *of_16_bits(a, b, toys.to_bfloat16, toys.bfloat16)),
        ("tf32", (a, b), tf32),
    ):
        result = d.copy()
        getattr(toys, f"mma_{name}")(*given, result, K, seed)
        left, right = (x.astype(np.float64) for x in rounded)
        bound = 2**-20 * (np.abs(left) @ np.abs(right) + np.abs(d))
        assert (np.abs(result - (d + left @ right)) <= bound).all(), name


def of_16_bits(a: np.ndarray, b: np.ndarray, to: Callable, back: Callable) -> tuple:
    bits = [np.ascontiguousarray(to(x)) for x in (a, b)]
    return bits, [back(x) for x in bits]


def hand_over(toys: ModuleType, seed: int) -> None:
    x, y = numbers(4, 32), nans(4, 32)
    toys.hand_over(x, nans(32), y, flags(2), 4, 32, seed)
    np.testing.assert_array_equal(y, 2 * np.roll(x, -1, axis=1))


def ring(toys: ModuleType, seed: int) -> None:
    rounds, wanted = 5, numbers(6)
    x = np.stack([wanted, nans(6)])
    toys.ring(x, flags(1), 6, 32, rounds, seed)
    for _ in range(rounds):
        wanted = np.roll(wanted, 1) + np.roll(wanted, -1)
    np.testing.assert_array_equal(x[rounds % 2], wanted)


def cluster_sum(toys: ModuleType, seed: int) -> None:
    rounds, x, y = 3, numbers(4, 32), nans(4, 32)
    toys.cluster_sum(x, y, 4, 32, rounds, seed)
    for _ in range(rounds):
        x = np.tile(np.roll(x, -1, axis=1).sum(0), (4, 1))
    np.testing.assert_array_equal(y, x)


def stream(toys: ModuleType, seed: int) -> None:
    x, sums = numbers(5, 4 * 32), nans(5)
    toys.stream(x, sums, 5, 32, seed)
    np.testing.assert_array_equal(sums, x.sum(1))


CHECKS: dict[str, Callable[[ModuleType, int], None]] = {
    check.__name__: check
    for check in (
        *(block_sum, warp_sum, warp_reverse, mma, hand_over, ring),
        *(cluster_sum, stream),
    )
}


def check(kind: str, names: Iterable[str], seeds: Iterable[int]) -> None:
    toys = load(kind)
    for seed in seeds:
        for name in names:
            CHECKS[name](toys, seed)


def in_process(kind: str, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code with `toys` as a module of this kind."""
    build.build("toys", KERNELS, BINDING, kind)
    begin = "from emulator.toys import *\ntoys = load(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-c", begin + code, kind],
        env={**build.environment(kind), "PYTHONPATH": str(build.HERE.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


if __name__ == "__main__":
    check("plain", CHECKS, range(1, 9))
    code = "check('tsan', CHECKS, (1, 2))"
    done = in_process("tsan", code)
    sys.exit(done.stdout + done.stderr if done.returncode else 0)
