"""Compiling the CUDA kernels with nvcc, which needs no GPU, and reading the report of ptxas."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import compile_cuda as cuda

SCRIPT = Path(cuda.__file__)
needs_nvcc = pytest.mark.skipif(
    not cuda.nvcc() or not shutil.which("ninja"), reason="no nvcc, or no ninja, on the PATH"
)

# Holds 64 numbers across a barrier, so that it spills with 32 registers.
KERNEL = """
#include "bound.h"
__global__ void BOUND hold(const float* x, float* y) {
  float held[64];
  for (int i = 0; i < 64; ++i) held[i] = x[64 * threadIdx.x + i];
  __syncthreads();
  for (int i = 0; i < 64; ++i) y[64 * threadIdx.x + i] = held[63 - i];
}
"""
TIGHT, LOOSE = "#define BOUND __launch_bounds__(1024, 2)\n", "#define BOUND\n"

# Of nvcc 13.0, lines shortened: one kernel for two architectures, and one that calls a function.
MANGLED = (
    "_ZN13stateful_lstm4cuda24forward_persistent_blockIfNS0_4SimtIfLi1EEEEEvNS0_11ForwardArgsIT_EE"
)
SAID = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{MANGLED}' for 'sm_80'
ptxas info    : Function properties for {MANGLED}
    48 bytes stack frame, 16 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 53 registers, used 1 barriers, 520 bytes cmem[0]
ptxas info    : Compile time = 46.729 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{MANGLED}' for 'sm_90a'
ptxas info    : Function properties for {MANGLED}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
ptxas info    : Compile time = 41.002 ms
ptxas info    : Compiling entry function '_Z5outerPf' for 'sm_90a'
ptxas info    : Function properties for _Z5outerPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 128 bytes smem
ptxas info    : Function properties for _Z5innerf
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compile time = 3.5 ms
"""


def run(*arguments, env=None):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_without_nvcc_it_says_what_is_skipped(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "CUDA_HOME"}
    done = run("--check", "--out", tmp_path / "out", env={**env, "PATH": str(tmp_path)})
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("cuda: skipped: no nvcc on the PATH")
    assert not (tmp_path / "out").exists()


def test_what_ptxas_says_is_read():
    small = "forward_persistent_block<float, Simt<float, 1>>"
    rows = [
        cuda.Row(small, "sm_80", 53, stack=48, stores=16, loads=32),
        cuda.Row(small, "sm_90a", 64),
        cuda.Row("outer", "sm_90a", 10, stack=8, stores=4, loads=4, shared=128),
    ]
    assert cuda.read_report(SAID) == rows
    lines = [line.split() for line in cuda.table(rows).splitlines()[1:]]
    assert lines == [
        ["sm_80", "sm_90a", "kernel"],
        ["53/48/48/0", "64/0/0/0", *small.split()],
        ["-", "10/8/8/128", "outer"],
    ]


def test_ptx_is_made_once_for_all_chips_that_the_source_does_not_tell_apart():
    assert cuda.targets(["75", "80", "89", "90a", "120"]) == [
        "-gencode=arch=compute_75,code=[sm_75]",
        "-gencode=arch=compute_80,code=[sm_80,sm_89]",
        "-gencode=arch=compute_90,code=[sm_90a,sm_120,compute_90]",
    ]


def test_clusters_are_compiled_only_where_they_are():
    assert cuda.wanted(Path("cluster_simt.cu"), ["80", "90a", "120"]) == ["90a", "120"]
    assert cuda.wanted(Path("cluster_simt.cu"), ["80"]) == ["90"]
    assert cuda.wanted(Path("grid_simt.cu"), ["80", "90a"]) == ["80", "90a"]


def test_the_source_tells_no_other_architectures_apart():
    told = re.compile(r"__CUDA_ARCH__\s*[<>=!]+\s*(\d+)")
    files = [
        path for path in (SCRIPT.parents[1] / "csrc").glob("**/*") if path.suffix in (".h", ".cu")
    ]
    found = {int(number) for path in files for number in told.findall(path.read_text())}
    assert found == {10 * virtual for virtual in cuda.VIRTUAL[1:]}


def test_a_wrong_architecture_is_refused():
    done = run("--arch", "sm_80")
    assert done.returncode == 2 and "80,90a" in done.stderr


@needs_nvcc
def test_a_kernel_that_spills_fails_the_check_and_a_changed_header_counts(tmp_path):
    source, header = tmp_path / "hold.cu", tmp_path / "bound.h"
    source.write_text(KERNEL)
    header.write_text(TIGHT)
    command = [source, "--arch", "80", "--out", tmp_path / "out"]
    done = run(*command, "--check")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cuda: hold on sm_80 spills registers:" in done.stdout
    assert "spills registers: 0 bytes stored" not in done.stdout
    assert run(*command).returncode == 0
    header.write_text(LOOSE)
    done = run(*command, "--check")
    assert done.returncode == 0 and "spills registers" not in done.stdout, done.stdout + done.stderr
    assert "no work to do" in run(*command).stdout


@needs_nvcc
@pytest.mark.parametrize("fault", ["int unused() { int x; return 0; }", "does not compile"])
def test_what_the_compiler_says_is_an_error(tmp_path, fault):
    (tmp_path / "wrong.cu").write_text("__global__ void nothing() {}\n" + fault)
    done = run(tmp_path / "wrong.cu", "--arch", "80", "--out", tmp_path / "out")
    assert done.returncode == 1 and "nvcc failed" in done.stderr
    assert "wrong.cu" in done.stdout and "error" in done.stdout


@pytest.mark.slow
@needs_nvcc
def test_each_kernel_compiles_in_each_type_without_spills():
    done = run("--quick", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
