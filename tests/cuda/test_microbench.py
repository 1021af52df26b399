"""benchmarks/gpu/microbench.py: its kernels and program in the emulator, and the floors.

The emulator knows no times. It tells that each kernel does all that it is timed for, and that
the program comes through and finds wrong results.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import build
from emulator import microbench as kernels

from benchmarks.gpu.roofline import Floor, floor_us, read
from tools import compile_cuda as cuda

MODULE = "benchmarks.gpu.microbench"
needs_nvcc = pytest.mark.skipif(not cuda.nvcc(), reason="no nvcc on the PATH")


# ---- kernels -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def microbench():
    return kernels.load()


@pytest.mark.parametrize("name", kernels.CHECKS)
def test_a_kernel_does_what_it_is_timed_for(microbench, name):
    for seed in range(1, 5):
        kernels.CHECKS[name](microbench, seed)


@pytest.mark.slow
def test_tsan_has_nothing_against_those_that_wait():
    if reason := build.lacking("tsan"):
        pytest.skip(reason)
    done = kernels.in_process("tsan", kernels.MEETING)
    assert done.returncode == 0 and not done.stderr, done.stderr


# ---- the program ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program():
    return kernels.program()


def run(*arguments, **env):
    command = [sys.executable, "-m", MODULE, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def test_the_program_comes_through_and_its_numbers_are_written(program, tmp_path):
    done = run("--program", program, "--quick", "--out", tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "the emulator, compute capability 9.0, 16 SMs"
    assert any(line.startswith("cluster barrier 8 blocks us ") for line in lines)
    assert "skipped: grid_barrier_128_blocks: there are 16 SMs" in lines

    path = tmp_path / "microbench-the-emulator.json"
    assert lines[-1] == f"written: {path}"
    found = read(path)
    assert found["machine"]["device"] == "the emulator" and found["machine"]["SMs"] == 16
    assert found["machine"]["command"].startswith("python -m benchmarks.gpu.microbench --program")
    assert {"commit", "driver, clocks", "clock_kHz", "driver_version"} <= found["machine"].keys()
    assert len(found["numbers"]) == 42
    for name, number in found["numbers"].items():
        # Rates of writes are net of the barrier, and a trial may find none.
        assert number > 0 or name.startswith("cluster_write"), name
    for dtype in ("float32", "tf32", "float16", "bfloat16"):
        assert floor_us(found, 4, 2, 8, 1024, dtype, True).us > 0


@pytest.mark.slow
def test_a_chip_before_9_0_has_no_clusters(program):
    done = subprocess.run(
        [program, "--quick"],
        env={**os.environ, "EMULATOR_ARCH": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["skipped"]["clusters"] == "needs compute capability 9.0, and this is 8.0"
    assert not [name for name in found["numbers"] if name.startswith("cluster")]


@pytest.mark.sampled(most=1)
@pytest.mark.parametrize(
    ("copy", "what"),
    [
        (1, "launches: wrong result of launch"),
        (9, "grid barriers: wrong result of grid_barrier_16_blocks_us"),
        (36, "memory: wrong result of memory_copy"),
        (45, "arithmetic: wrong result of mma"),
    ],
)
def test_a_wrong_result_is_an_error_that_names_it(program, tmp_path, copy, what):
    done = run("--program", program, "--quick", "--out", tmp_path, EMULATOR_WRONG=str(copy))
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.startswith(f"microbench: {what}: word 0 is "), done.stderr


# ---- without nvcc, without a GPU -----------------------------------------------------------------


def test_without_nvcc_it_says_so(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "CUDA_HOME"}
    command = [sys.executable, "-m", MODULE, "--compile-only"]
    env["PATH"] = str(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == (
        "microbench: there is no nvcc on the PATH or in CUDA_HOME to compile microbench.cu with\n"
    )


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("arch", ["80", "90a"])
def test_it_compiles_and_says_that_there_is_no_gpu(arch):
    done = run("--compile-only", "--arch", arch)
    assert done.returncode == 0 and not done.stderr, done.stderr
    program = Path(done.stdout.strip())
    assert program == build.ROOT / "build" / "gpu" / f"microbench-{arch}"
    done = run("--program", program, "--quick", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("microbench: no GPU that CUDA can use here: ")
    assert done.stderr.count("\n") == 1


def test_a_program_that_does_not_run_is_named(tmp_path):
    (tmp_path / "microbench").write_text("no program")
    done = run("--program", tmp_path / "microbench")
    assert done.returncode == 1 and "microbench does not run: Permission denied" in done.stderr


# ---- floors --------------------------------------------------------------------------------------

# Round numbers, so that the sums below can be done by hand: a shared memory of 100 bytes a
# nanosecond on each of 10 SMs, a copy of 1000.
CHIP = {
    "machine": {"SMs": 10, "shared_bytes_per_block": 200_000},
    "numbers": {
        "fma_float32_TFLOP_per_s": 10,
        "mma_tf32_8_warps_TFLOP_per_s": 100,
        "mma_bfloat16_8_warps_TFLOP_per_s": 150,
        "mma_bfloat16_16_warps_TFLOP_per_s": 200,
        "shared_read_GB_per_s_per_SM": 100,
        "memory_copy_GB_per_s": 1000,
        "cluster_barrier_8_blocks_us": 0.25,
        "flag_one_way_us": 0.75,
    },
}


def test_a_small_layer_is_bound_by_its_weights_and_exchanges_nothing():
    # 4 * 100 * 100 bfloat16s are 80 000 bytes, at 1000 a nanosecond.
    assert floor_us(CHIP, 1000, 1, 100, 100, "bfloat16", False) == Floor(
        pytest.approx(0.08), "weights"
    )


def test_each_exchange_by_what_holds_the_weights():
    def floor(H, chip=CHIP):
        return floor_us(chip, 10**9, 1, H, H, "bfloat16", False)

    # 4 * 400 * 400 * 2 = 1.28 MB: eight blocks have 1.6 MB.
    assert floor(400) == Floor(pytest.approx(1.28 + 0.25), "weights")
    # 4 * 500 * 500 * 2 = 2 MB: more than eight blocks.
    assert floor(500) == Floor(pytest.approx(2.0 + 0.75), "weights")
    # A chip without clusters, whose flags take longer than the weights.
    numbers = {**CHIP["numbers"], "flag_one_way_us": 9.0}
    del numbers["cluster_barrier_8_blocks_us"]
    assert floor(400, {**CHIP, "numbers": numbers}) == Floor(pytest.approx(10.28), "exchange")


def test_many_rows_are_bound_by_products():
    # 2 * 1000 * 400 * 200 = 160e6 operations, at 10e6 a microsecond; memory has 4e6 bytes at most.
    assert floor_us(CHIP, 100, 1000, 100, 100, "float32", False) == Floor(
        pytest.approx(16.0), "products"
    )
    assert floor_us(CHIP, 100, 1000, 100, 100, "tf32", False).us < 16 / 3


def test_memory_forward_and_backward():
    # gates_x written and read: 2 * 1000 * 400 * 4 = 3.2e6 bytes; y: 1000 * 100 * 2 = 0.2e6; both
    # weights: 160 000 in 100 steps, 1600. Products: 160e6 / 200e6 = 0.8 us.
    forward = floor_us(CHIP, 100, 1000, 100, 100, "bfloat16", False)
    assert forward == Floor(pytest.approx(3.4016), "memory")
    # In training gates of 1000 * 400 * 2 = 0.8e6 bytes and cells of 0.4e6 more, and backward takes
    # as many bytes again.
    both = floor_us(CHIP, 100, 1000, 100, 100, "bfloat16", True)
    assert both == Floor(pytest.approx(2 * (3.4016 + 1.2)), "memory")


def test_training_multiplies_as_much_as_the_grid_says():
    from benchmarks.shapes import Shape

    shape = Shape(100, 1000, 50, 100, 1)
    operations = shape.operations(train=True) / shape.T
    found = floor_us(CHIP, *shape[:4], "float32", True)
    assert found == Floor(pytest.approx(operations / 10e6), "products")


def test_rows_of_sequences_have_floors():

    report = importlib.import_module("benchmarks.gpu.report")
    grid, timing = (
        importlib.import_module(f"benchmarks.{name}") for name in ("shapes", "cpu.timing")
    )
    times = {name: timing.Timing(us * 1e-6, us, us, 9) for name, us in (("ours", 16), ("it", 20))}
    rows = {
        kind: report.GpuRow(kind, "bfloat16", grid.Shape(100, 1, 100, 100, 1), times)
        for kind in ("infer", "train", "resets")
    }
    for row in rows.values():
        report.give_floor(row, CHIP)
    # 0.08 us a step, see above, are 8 of 100 steps.
    assert rows["infer"].json()["floor"] == {
        "us a step": 0.08,
        "limit": "weights",
        "multiple": 2.0,
    }
    assert "1.25x  2.0x weights    ours 0.16" in rows["infer"].line()
    assert "1.25x  1.0x weights    ours 0.16" in rows["train"].line()
    assert rows["resets"].json()["floor"] is None and "weights" not in rows["resets"].line()
    line, heading = rows["infer"].line(), report.HEADING
    assert line.index("2.0x") == heading.index("of the floor")
    assert (
        report.microbench_file("NVIDIA H100 80GB HBM3") == "microbench-nvidia-h100-80gb-hbm3.json"
    )


def test_no_file_is_no_floor(tmp_path):
    assert read(tmp_path / "microbench-none.json") is None
