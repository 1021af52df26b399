"""Runs the kernels of microbench_kernels.h in the emulator and checks their results.

python tests/emulator/microbench.py plain             # checks them all
python tests/emulator/microbench.py tsan ping_pong    # in a process for this kind: some of them

The expected results are computed here independently; those that the header expects must agree.
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

KERNELS = [build.HERE / "microbench.cpp"]
PROGRAM = build.ROOT / "benchmarks/gpu/microbench.cu"
RUNTIME = build.HERE / "runtime.h"  # of CUDA, as far as microbench.cu calls it


def load(kind: str = "plain") -> ModuleType:
    return build.load("microbench", KERNELS, [], kind)


def program() -> Path:
    """microbench.cu for the emulator: its times mean nothing, but it runs."""
    objects = [build.compiled(source, "plain", []) for source in build.EMULATOR]
    objects.append(build.compiled(PROGRAM, "plain", ["-include", str(RUNTIME)]))
    path = build.BUILD / "plain" / "microbench"
    build.run([build.compiler(), *map(str, objects), "-o", str(path)])
    return path


def words(*shape: int) -> np.ndarray:
    """Arbitrary numbers, so that a word that was not written shows."""
    return np.full(shape, 0xDEADBEEF, np.uint32)


def zeros(count: int) -> np.ndarray:
    return np.zeros(count, np.uint32)


def equal(got: np.ndarray, wanted: object) -> None:
    modulo = np.asarray(wanted).astype(np.int64) % 2**32
    np.testing.assert_array_equal(got, modulo.astype(np.uint32))


def filled(count: int) -> np.ndarray:
    return (np.arange(count, dtype=np.uint64) * 2654435761 % 2**32).astype(np.uint32)


def sum_of(numbers: np.ndarray) -> int:
    return int(numbers.astype(np.uint64).sum() % 2**32)


def fill(microbench: ModuleType, seed: int) -> None:
    got = words(1001)
    microbench.fill(got, 1000, 3, 32, seed)
    equal(got[:1000], filled(1000))
    assert got[1000] == 0xDEADBEEF
    assert microbench.expected_sum(0, 1000) == sum_of(got[:1000])
    assert (
        microbench.expected_sum(7, 101) == sum_of(got[7:108]) and microbench.expected_sum(3, 0) == 0
    )


def launch(microbench: ModuleType, seed: int) -> None:
    got = words(4)
    for number in range(3):
        microbench.launch(got, number, seed)
    equal(got, [1, 2, 3, 0xDEADBEEF])


def turn(values: np.ndarray, steps: int, moves: Iterable[bool]) -> np.ndarray:
    """Places that take their next neighbour's number in some of the steps."""
    for step, move in zip(range(steps), moves, strict=True):
        values = (np.roll(values, -1) if move else values) + step + 1
    return values


def block_barrier(microbench: ModuleType, seed: int) -> None:
    for exchange in (False, True):
        got = words(2, 64)
        microbench.block_barrier(got, exchange, 2, 64, 7, seed)
        wanted = turn(np.arange(64), 7, [exchange] * 7)
        equal(got, [wanted, wanted])
        expected = [microbench.expected_round(i, 64, 7 * exchange, 7) for i in range(64)]
        equal(wanted, expected)


def grid_barrier(microbench: ModuleType, seed: int) -> None:
    steps, threads = 6, 64  # two warps: one of the block's barriers is more than a warp's
    for exchange, blocks, apart in ((False, 5, 1), (True, 5, 1), (True, 20, 8)):
        got, counts = words(blocks, threads), zeros(blocks * apart)
        places = words(2, blocks, threads)
        microbench.grid_barrier(counts, places, got, exchange, blocks, threads, steps, apart, seed)
        wanted = turn(np.arange(blocks), steps, [*[exchange] * (steps - 1), True])
        equal(got, np.tile(wanted[:, None], threads))
        moves = steps if exchange else 1
        equal(wanted, [microbench.expected_round(i, blocks, moves, steps) for i in range(blocks)])
        equal(counts[::apart], [steps] * blocks)


def ping_pong(microbench: ModuleType, seed: int) -> None:
    for other in (1, 3):
        got = words(2)
        microbench.ping_pong(zeros(65), got, 5, other, seed)
        equal(got, [10, 9])
        equal(got, [microbench.expected_ping_pong(which, 5) for which in (0, 1)])


def cluster_barrier(microbench: ModuleType, seed: int) -> None:
    for cluster in (2, 4, 8):
        got = words(2, cluster, 32)
        microbench.cluster_barrier(got, cluster, 32, 5, seed)
        wanted = turn(np.arange(cluster), 5, [False] * 4 + [True])
        equal(got, np.tile(wanted[:, None], (2, 1, 32)))
        equal(wanted, [microbench.expected_round(i, cluster, 1, 5) for i in range(cluster)])


def cluster_write(microbench: ModuleType, seed: int) -> None:
    for size, count in ((4, 64), (16, 256), (4, 0)):
        got = words(2, 8, 32)
        microbench.cluster_write(got, size, 32, count, 3, seed)
        sent = 2 * 2654435761 + np.arange(8 * count, dtype=np.uint64).reshape(8, count)
        wanted = [sum_of(np.delete(sent, rank, axis=0) % 2**32) for rank in range(8)]
        equal(got.sum(axis=2, dtype=np.uint64) % 2**32, [wanted] * 2)
        equal(
            np.array(wanted),
            [microbench.expected_cluster_write(rank, count, 3) for rank in range(8)],
        )


def cluster_read(microbench: ModuleType, seed: int) -> None:
    got = words(8)
    microbench.cluster_read(got, 8, 32, 64, 11, seed)
    equal(got, (np.arange(8) + 11 * 33) % 64)
    equal(got, [microbench.expected_cluster_read(rank, 64, 11) for rank in range(8)])


def read(microbench: ModuleType, seed: int) -> None:
    vectors, threads = 1024, 32
    data = filled(4 * vectors)
    # Three blocks read all of it twice; then four blocks read a quarter each, once.
    for blocks, count, apart, rounds in ((3, vectors, 256, 2), (4, 256, 256, 1)):
        got = words(blocks, threads)
        microbench.read(data, vectors, count, apart, rounds, got, blocks, threads, seed)
        wanted = [
            rounds * sum_of(np.roll(data, -4 * block * apart)[: 4 * count])
            for block in range(blocks)
        ]
        equal(got.sum(axis=1, dtype=np.uint64) % 2**32, np.array(wanted))


def copy(microbench: ModuleType, seed: int) -> None:
    data = filled(4 * 768)
    got = words(4 * 1024)
    microbench.copy(data, got, 768, 2, 32, seed)
    equal(got[: 4 * 768], data)
    equal(got[4 * 768 :], words(4 * 256))


def chase(microbench: ModuleType, seed: int) -> None:
    lines = 64
    chain, got = words(lines * 32), words(1)
    microbench.make_chain(chain, lines, seed)
    at, seen = 0, []
    for _ in range(lines):
        seen.append(at)
        at = int(chain[at])
    assert at == 0 and sorted(seen) == [32 * line for line in range(lines)]
    for start, steps in ((0, 0), (0, 10), (seen[10], 20)):
        microbench.chase(chain, start, steps, got, seed)
        assert got[0] == seen[seen.index(start) + steps]
        assert got[0] == microbench.expected_chase(lines, start, steps)


def shared_read(microbench: ModuleType, seed: int) -> None:
    for pieces, rounds in ((1, 3), (3, 7)):
        got = words(2, 64)
        microbench.shared_read(got, 2, pieces, rounds, seed)
        piece = 4 * 64 * 4
        sums = [sum_of(filled(pieces * piece)[i * piece : (i + 1) * piece]) for i in range(pieces)]
        wanted = sum(sums[i % pieces] for i in range(rounds)) % 2**32
        equal(got.sum(axis=1, dtype=np.uint64) % 2**32, [wanted] * 2)
        assert microbench.expected_shared_read(64, pieces, rounds) == wanted


def fragments(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """a (16, depth) and b (depth, 8) of mma_kernel, as device.h lays out the registers."""
    each = depth // 8
    a, b = np.full((16, depth), 99), np.full((depth, 8), 99)
    values = (1, -1, 2, -2)
    for lane in range(32):
        group, pair = divmod(lane, 4)
        for which in range(6):
            for place in range(each):
                code = 7 * lane * (lane + which) + 37 * which + 11 * lane * place
                value = values[code // 8 % 4]
                along = each * pair + place
                if which < 4:
                    a[group + which % 2 * 8, along + which // 2 * depth // 2] = value
                else:
                    b[along + (which - 4) * depth // 2, group] = value
    return a, b


def mma(microbench: ModuleType, seed: int) -> None:
    rounds = 3
    for tf32 in (False, True):
        a, b = fragments(8 if tf32 else 16)
        product = rounds * (a @ b)
        assert len(np.unique(product)) > 3
        for chains in (1, 8):
            got = words(2, 64)
            microbench.mma(got, tf32, chains, 64, rounds, seed)
            sums = chains * product + chains * (chains - 1) // 2
            for lane in range(32):
                row, column = lane // 4, lane % 4 * 2
                held = [*sums[row, column : column + 2], *sums[row + 8, column : column + 2]]
                wanted = np.array(held) @ (1, 2, 3, 4)
                equal(got[:, lane::32], np.full((2, 2), wanted))
                assert (
                    microbench.expected_mma(lane, 1 if tf32 else 2, chains, rounds)
                    == wanted % 2**32
                )


def fma(microbench: ModuleType, seed: int) -> None:
    got = words(2, 32)
    microbench.fma(got, 32, 5, seed)
    equal(got, np.full((2, 32), sum(c + 5 for c in range(8))))
    assert microbench.expected_fma(5) == got[0, 0]


CHECKS: dict[str, Callable[[ModuleType, int], None]] = {
    check.__name__: check
    for check in (
        *(fill, launch, block_barrier, grid_barrier, ping_pong),
        *(cluster_barrier, cluster_write, cluster_read),
        *(read, copy, chase, shared_read, mma, fma),
    )
}
# The kernels whose threads wait for each other.
MEETING = ("block_barrier", "grid_barrier", "ping_pong", "cluster_barrier", "cluster_write")


def check(kind: str, names: Iterable[str], seeds: Iterable[int]) -> None:
    microbench = load(kind)
    for seed in seeds:
        for name in names:
            CHECKS[name](microbench, seed)


def in_process(kind: str, names: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Runs those checks in a new process of that kind."""
    build.build("microbench", KERNELS, [], kind)
    return subprocess.run(
        [sys.executable, __file__, kind, *names],
        env=build.environment(kind),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2:] or CHECKS, (1, 2))
