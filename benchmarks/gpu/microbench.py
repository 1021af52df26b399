"""Times the limits of the CUDA kernels on a GPU: launches, barriers, flags, memory, products.

    python -m benchmarks.gpu.microbench [--quick] [--program PATH] [--out DIR]
    python -m benchmarks.gpu.microbench --compile-only [--arch 90a]

Compiles microbench.cu with nvcc into build/gpu/, runs it, which takes some seconds, prints a table
and writes benchmarks/results/microbench-<device>.json, from which roofline.py computes how fast a
step can be. --program runs a program that --compile-only made, perhaps on another machine. --quick
tries it in few steps; its figures are meaningless and go to build/bench/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools import compile_cuda as cuda

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu"
FLAGS = [
    f"-I{ROOT / 'csrc'}",
    "-std=c++17",
    "-O3",
    "--Werror=all-warnings",
    "-Xcompiler=-Wall,-Wextra",
]
SECONDS = 300  # far more than it takes: blocks that wait for each other might wait forever


class MicrobenchError(RuntimeError):
    """The program failed; the message says why in one sentence."""


def architecture() -> str:
    """The architecture of this machine's GPU, or 90a."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        number = cuda.number(done.stdout.splitlines()[0].replace(".", ""))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "90a"
    return "90a" if number == 90 else str(number)


def compiled(arch: str) -> Path:
    """Compiles the program for an architecture."""
    compiler = cuda.nvcc()
    if compiler is None:
        raise MicrobenchError(
            "there is no nvcc on the PATH or in CUDA_HOME to compile microbench.cu with"
        )
    BUILD.mkdir(parents=True, exist_ok=True)
    path, source = BUILD / f"microbench-{arch}", Path(__file__).with_name("microbench.cu")
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    done = subprocess.run([compiler, *FLAGS, target, str(source), "-o", str(path)], check=False)
    if done.returncode != 0:
        raise MicrobenchError("nvcc failed, and says why above")
    return path


def measured(program: Path, quick: bool) -> dict[str, Any]:
    """Runs the program and returns the numbers that it prints."""
    command = [str(program.resolve()), *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    except OSError as error:
        raise MicrobenchError(f"{program} does not run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise MicrobenchError(f"{program} was stopped after {SECONDS} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().removeprefix("microbench: ")
        raise MicrobenchError(said or f"{program} ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def write(found: dict[str, Any], out: Path) -> Path:
    """The machine, as in the other results, and the numbers."""
    from benchmarks.cpu import (
        machine,
    )  # a late import: only this function needs torch and the package
    from benchmarks.gpu import report

    about = {name: value for name, value in found.items() if not isinstance(value, dict)}
    about["driver, clocks"] = report.driver()
    about["commit"] = machine.commit()
    about["command"] = " ".join(["python -m benchmarks.gpu.microbench", *sys.argv[1:]])
    contents = {"machine": about, "numbers": found["numbers"], "skipped": found["skipped"]}
    path = out / report.microbench_file(found["device"])
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")
    return path


def table(found: dict[str, Any]) -> str:
    """One line for each number."""
    lines = [f"{found['device']}, compute capability {found['capability']}, {found['SMs']} SMs"]
    for name, value in found["numbers"].items():
        text = f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
        lines.append(f"{name.replace('_', ' '):48}{text:>10}")
    lines += [f"skipped: {name}: {why}" for name, why in found["skipped"].items()]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", type=Path, metavar="PATH", help="compiled before")
    parser.add_argument("--arch", help="default: the GPU's that is here, or 90a")
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few steps: does it run?")
    parser.add_argument("--out", type=Path, help="benchmarks/results; build/bench with --quick")
    options = parser.parse_args()
    if options.compile_only and options.program:
        parser.error("--compile-only makes the program that --program takes: one of them")
    return options


def main() -> None:
    options = arguments()
    default = ROOT / "build/bench" if options.quick else ROOT / "benchmarks/results"
    out: Path = options.out or default
    try:
        program = options.program or compiled(options.arch or architecture())
        if options.compile_only:
            print(program)
            return
        found = measured(program, options.quick)
    except MicrobenchError as error:
        sys.exit(f"microbench: {error}")
    print(table(found))
    print(f"written: {write(found, out)}")


if __name__ == "__main__":
    main()
