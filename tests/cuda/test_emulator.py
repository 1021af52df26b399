"""The emulator (tests/emulator/): correct kernels run correctly, and faults are detected.

A test of a kernel is worth what the emulator sees: most of this is about faults.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from emulator import build, mutate
from emulator import toys as right
from emulator.toys import flags, nans, numbers

SEEDS = range(12)


@pytest.fixture(scope="module")
def toys() -> ModuleType:
    return right.load()


def line_of(comment: str) -> str:
    """file:line of a line in wrong_toys.cpp."""
    lines = (build.HERE / "wrong_toys.cpp").read_text().splitlines()
    (found,) = [i for i, line in enumerate(lines, 1) if line.endswith("// " + comment)]
    return f"wrong_toys.cpp:{found}"


# ---- right kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", right.CHECKS)
def test_right_kernels_are_right_in_any_order(toys: ModuleType, name: str) -> None:
    for seed in SEEDS:
        right.CHECKS[name](toys, seed)


def test_halves_are_numpys(toys: ModuleType) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    np.testing.assert_array_equal(toys.half(bits), halves.astype(np.float32))
    exact = halves.astype(np.float32)
    # Each number, the midpoint to the next one, and its neighbours on both sides.
    with np.errstate(invalid="ignore", over="ignore"):
        between = (exact[:-1].astype(np.float64) + exact[1:].astype(np.float64)) / 2
        between = between.astype(np.float32)
        more = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
        every = np.concatenate([exact, between, *more, np.float32([65519.9, 65520, 1e9, -1e-9])])
        wanted = every.astype(np.float16)
    got = toys.to_half(every).view(np.float16)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(
        np.signbit(got)[~np.isnan(got)], np.signbit(wanted)[~np.isnan(got)]
    )


def test_bfloat16s_are_torchs(toys: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    words = np.random.default_rng(3).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    words[::2] = words[::2] & 0xFFFF0000 | 0x8000  # ties
    number = words.view(np.float32)
    wanted = torch.from_numpy(number).bfloat16()
    got = toys.bfloat16(toys.to_bfloat16(number))
    np.testing.assert_array_equal(got, wanted.float().numpy())


def test_a_thousand_threads_meet_a_hundred_times_in_no_time(toys: ModuleType) -> None:
    toys.barriers(1, 1024, 1, 1)
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        toys.barriers(1, 1024, 100, 1)
        best = min(best, time.perf_counter() - start)
    assert best < 0.2


def test_a_seed_gives_one_order_and_another_seed_another(toys: ModuleType) -> None:
    def result(seed: int) -> bytes:
        y = nans(64)
        toys.no_barrier(numbers(64), y, 64, seed)
        return y.tobytes()

    assert result(5) == result(5)
    assert len({result(seed) for seed in SEEDS}) > len(SEEDS) // 2


# ---- wrong kernels: their results ----------------------------------------------------------------


def test_shared_memory_is_nan_before_it_is_written(toys: ModuleType) -> None:
    y = nans(32)
    toys.no_barrier(numbers(32), y, 32, 1)
    assert np.isnan(y).any()


def test_a_barrier_missing_before_a_second_write_is_seen(toys: ModuleType) -> None:
    x = numbers(2, 64)
    wrong = 0
    for seed in SEEDS:
        y = nans(2, 64)
        toys.no_second_barrier(x, y, 64, seed)
        wrong += not np.array_equal(y, np.roll(x, -1, axis=1))
    assert wrong > len(SEEDS) // 2


@pytest.mark.parametrize("name", ["no_copy_wait", "no_copy_commit", "too_few_copies"])
def test_a_copy_that_is_not_waited_for_has_brought_nothing(toys: ModuleType, name: str) -> None:
    y = np.zeros(4 * 32, np.float32)
    getattr(toys, name)(numbers(4 * 32), y, 32, 1)
    assert np.isnan(y).all()


# ---- wrong kernels: errors -----------------------------------------------------------------------


def message(call: Callable[..., None], *arguments: object) -> str:
    with pytest.raises(RuntimeError) as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_exit_before_a_barrier(toys: ModuleType, seed: int) -> None:
    # Whether the others have arrived or not.
    text = message(toys.exit_before_barrier, 64, seed)
    assert "thread 5 of block 0" in text and "exited" in text
    assert "block_barrier" in text and line_of("lacks thread 5") in text
    text = message(toys.exit_before_warp_barrier, 64, seed)
    assert "thread 37 of block 0" in text and "exited" in text
    assert "warp_barrier" in text and line_of("lacks thread 37") in text


@pytest.mark.parametrize("seed", SEEDS)
def test_divergent_barriers(toys: ModuleType, seed: int) -> None:
    text = message(toys.divergent_barrier, 64, seed)
    assert "divergent" in text and line_of("one of two") in text and line_of("two of two") in text


def test_a_deadlock_of_flags(toys: ModuleType) -> None:
    text = message(toys.flags_in_a_circle, flags(2), 1)
    assert "deadlock" in text and "only spin" in text
    for block in 0, 1:
        assert re.search(f"thread 0 of block {block} spins .*{line_of('circle')}", text)
        assert re.search(
            f"thread 1 of block {block} waits in block_barrier .*{line_of('after the circle')}, "
            "and 30 more",
            text,
        )


def test_a_deadlock_of_barriers(toys: ModuleType) -> None:
    text = message(toys.half_the_block_waits, 64, 1)
    assert "deadlock" in text and "no thread can run" in text
    assert f"block_barrier at tests/emulator/{line_of('one half')}, and 31 more" in text
    assert f"cluster_wait at tests/emulator/{line_of('other half')}, and 31 more" in text


def test_a_loop_that_lets_nobody_else_run(toys: ModuleType) -> None:
    text = message(toys.spin_without_yield, flags(1), 1)
    assert "without emulator_yield" in text and line_of("no yield") in text


def test_a_wait_before_the_arrival(toys: ModuleType) -> None:
    text = message(toys.wait_without_arrive, 1)
    assert "without cluster_arrive" in text and line_of("not arrived") in text


def test_writes_where_there_is_no_shared_memory(toys: ModuleType) -> None:
    assert "past the end, to byte 256 of 256" in message(toys.overrun, 64, 1)
    text = message(toys.write_into_exited_block, 32, 1)
    assert "block 1" in text and "after the block had exited" in text


def test_a_write_to_a_block_that_need_not_be_there_yet(toys: ModuleType) -> None:
    def error(seed: int) -> str:
        try:
            toys.write_before_start(32, seed)
        except RuntimeError as error:
            return str(error)
        return ""

    errors = [error(seed) for seed in SEEDS]
    wanted = "shared memory of block 1: a write before the block had started"
    assert set(errors) <= {"", wanted} and errors.count(wanted) > len(SEEDS) // 4


def test_a_launch_after_one_that_failed(toys: ModuleType) -> None:
    message(toys.divergent_barrier, 64, 1)
    right.CHECKS["block_sum"](toys, 1)


def test_a_kernel_that_does_not_compile_says_why() -> None:
    source = build.BUILD / "no_kernel.cpp"
    source.write_text("#error no kernel\n")
    with pytest.raises(build.BuildError, match=r"no_kernel\.cpp:1:2: error: #error no kernel"):
        build.build("no_kernel", [source], [])


def test_arrays_of_another_kind_are_refused(toys: ModuleType) -> None:
    with pytest.raises(TypeError, match="another type or layout"):
        toys.warp_sum(np.zeros(64), nans(64), 64, 1)


# ---- ThreadSanitizer -----------------------------------------------------------------------------


def sanitized(kind: str, code: str) -> tuple[int, str]:
    if reason := build.lacking(kind):
        pytest.skip(reason)
    done = right.in_process(kind, code)
    return done.returncode, done.stderr


def test_tsan_has_nothing_against_right_kernels() -> None:
    status, report = sanitized("tsan", "check('tsan', CHECKS, (1, 2))")
    assert status == 0 and not report, report


WRONG = """
for name, more in (
    ("no_barrier", []),
    ("shuffle_for_barrier", []),
    ("no_second_barrier", []),
    ("no_flag", [nans(64)]),
    ("relaxed_flag", [nans(64), flags(1)]),
    ("copy_without_barrier", []),
):
    print("==", name, file=sys.stderr, flush=True)
    x, y = numbers(256), nans(256)
    place, flag = more[:1], more[1:]
    getattr(toys, name)(x, *place, y, *flag, 64, 1)
"""


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    status, text = sanitized("tsan", WRONG)
    assert status == 66, text
    return {part.split("\n", 1)[0]: part for part in re.split("^== ", text, flags=re.M)}


@pytest.mark.parametrize(
    "name",
    [
        *("no_barrier", "shuffle_for_barrier", "no_second_barrier", "no_flag", "relaxed_flag"),
        "copy_without_barrier",
    ],
)
def test_tsan_tells_the_lines_of(reports: dict[str, str], name: str) -> None:
    report = reports[name]
    assert "WARNING: ThreadSanitizer: data race" in report, report
    assert line_of(f"{name} writes") in report, report
    assert line_of(f"{name} reads") in report, report
    assert re.search(r"Thread T\d+ 'block \d thread \d+'", report), report


def test_asan_tells_the_line_of_an_overrun() -> None:
    status, report = sanitized("asan", "toys.overrun(64, 1)")
    assert status != 0 and "heap-buffer-overflow" in report, report
    assert line_of("overrun writes") in report, report


def test_asan_has_nothing_against_right_kernels() -> None:
    status, report = sanitized("asan", "check('asan', CHECKS, (1, 2))")
    assert status == 0 and not report, report


# ---- mutants -------------------------------------------------------------------------------------


def test_mutants_are_every_call_that_is_not_exempt() -> None:
    text = """
void cluster_barrier() {
  block_barrier();  // block_barrier();
  while (load_acquire(flag + f(1)) < 2) emulator_yield();  /* store_release(a, b)
  warp_barrier(); */ cuda::store_release(flag, 1); add_release(flag, 2);
  copy_async_wait<1>(); my_block_barrier();
  cluster_barrier();
  cluster_wait();  // not needed for correctness: a guess
}
"""
    switched, mutants = mutate.switched(Path("a.h"), text, 5)
    assert [(m.line, m.old, m.new) for m in mutants] == [
        (3, "block_barrier()", "(void)0"),
        (3, "block_barrier()", "warp_barrier()"),
        (4, "load_acquire(flag + f(1))", "mutant::load_relaxed(flag + f(1))"),
        (5, "cuda::store_release(flag, 1)", "mutant::store_relaxed(flag, 1)"),
        (5, "add_release(flag, 2)", "mutant::add_relaxed(flag, 2)"),
        (6, "copy_async_wait<1>()", "(void)0"),
        (7, "cluster_barrier()", "(void)0"),
        (7, "cluster_barrier()", "block_barrier()"),
    ]
    assert [m.number for m in mutants] == list(range(5, 13))
    lines, before = switched.splitlines(), text.splitlines()
    is_mutant = "::stateful_lstm::emulator::is_mutant"
    assert lines[2] == (
        f"  ({is_mutant}(5) ? (void)0 : {is_mutant}(6) ? ::stateful_lstm::cuda::warp_barrier() : "
        "block_barrier());  // block_barrier();"
    )
    same = [i for i, line in enumerate(before) if line == lines[i]]
    assert same == [0, 1, 7, 8] and len(lines) == len(before)


def test_a_superfluous_barrier_survives_and_a_needed_one_does_not() -> None:
    if reason := build.lacking("tsan"):
        pytest.skip(reason)
    source = build.HERE / "mutation_fixture.cpp"
    found = mutate.run([source], [sys.executable, "tests/emulator/mutation_fixture.py"])
    lines = source.read_text().splitlines()
    assert [(lines[m.line - 1].split("// ")[1], m.new, bool(fault)) for m, fault in found] == [
        ("needed", "(void)0", True),
        ("needed", "warp_barrier()", True),
        ("superfluous", "(void)0", False),
        ("superfluous", "warp_barrier()", False),
    ]


def test_a_suite_that_fails_by_itself_proves_nothing() -> None:
    with pytest.raises(RuntimeError, match="without a mutant"):
        mutate.run([build.HERE / "mutation_fixture.cpp"], ["false"])
