"""Compiles the CUDA kernels, and reads what ptxas says of them: the one place that calls nvcc.

    python csrc/cuda/compile.py [--arch 80,90a | --quick] [--check] [--out DIR] [--jobs N] [FILE.cu ...]

Makes DIR/<file>.o of every .cu file, with machine code for all architectures. That takes no GPU, and they can
be linked on another machine. DIR/report/<file>.txt is what ptxas said, DIR/report/summary.txt a table of
it. With --check a kernel that spills registers to memory is an error. Only what changed is compiled.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "build" / "cuda"

ARCHITECTURES = ("75", "80", "86", "89", "90a", "100a", "120")
QUICK = ("90a",)
# What device.h tells apart. The source becomes PTX once for each of these, and code of every chip from that on;
# the newest PTX stays in the objects, for chips that are not in the list.
VIRTUAL = (75, 80, 90)
FLAGS = [
    *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"),
    *("--Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall,-Wextra,-fvisibility=hidden"),
]


class CompileError(RuntimeError):
    """The compiler has said why."""


class Row(NamedTuple):
    """What a kernel takes on an architecture: registers of a thread, and bytes."""

    kernel: str
    arch: str
    registers: int
    stack: int
    stores: int  # of spilled registers
    loads: int
    shared: int  # without what a launch asks for

    def spilled(self) -> int:
        return self.stores + self.loads


def nvcc() -> str | None:
    """The one on the PATH, or that of CUDA_HOME."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)


def runtime() -> Path | None:
    """CUDA's runtime as a static library: it is in the toolkit that nvcc is of."""
    compiler = nvcc()
    if compiler is None:
        return None
    # nvcc may be a link, or a script in another place: it knows where its toolkit is.
    said = subprocess.run(
        [compiler, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    found = re.search(r"^#\$ TOP=(.*)$", said, flags=re.MULTILINE)
    home = Path(found[1].strip()) if found else Path(compiler).resolve().parents[1]
    places = [home / "lib64", *sorted(home.glob("targets/*/lib"))]
    files = [place / "libcudart_static.a" for place in places]
    return next((file.resolve() for file in files if file.exists()), None)


def sources() -> list[Path]:
    """All kernels, those that take longest first."""
    return sorted(HERE.glob("*.cu"), key=lambda path: (path.stem not in ("cluster", "steps"), path))


def targets(archs: Sequence[str]) -> list[str]:
    """The architectures as nvcc's flags."""
    codes = defaultdict(list)
    for arch in archs:
        number = int(arch.rstrip("af"))
        codes[max(v for v in VIRTUAL if v <= number)].append(f"sm_{arch}")
    codes[max(codes)].append(f"compute_{max(codes)}")
    return [f"-gencode=arch=compute_{v},code=[{','.join(code)}]" for v, code in codes.items()]


def compile(
    archs: Sequence[str] = ARCHITECTURES,
    out: Path = OUT,
    jobs: int | None = None,
    files: Sequence[Path] | None = None,
) -> list[Path]:
    """The objects of `files` (all kernels), after what changed was compiled again."""
    compiler = nvcc()
    if compiler is None:
        raise CompileError("no nvcc")
    files = [path.resolve() for path in files or sources()]
    (out / "report").mkdir(parents=True, exist_ok=True)
    command = shlex.join([compiler, *FLAGS, *targets(archs)])
    escaped = [re.sub(r"([ :$])", r"$\1", str(path)) for path in files]
    lines = [
        "rule nvcc",
        # Warnings are errors, so that what a compilation that went well says is all ptxas's report.
        f"  command = {command.replace('$', '$$')} -MD -MF $out.d -c $in -o $out"
        " > report/$name.txt 2>&1 || { cat report/$name.txt; exit 1; }",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = nvcc $name.cu",
    ]
    for path, name in zip(files, escaped, strict=True):
        lines += [f"build {path.stem}.o: nvcc {name}", f"  name = {path.stem}"]
    (out / "build.ninja").write_text("\n".join(lines) + "\n")
    at_once = jobs or int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    done = subprocess.run(["ninja", "-C", str(out), "-j", str(at_once)], check=False)
    if done.returncode != 0:
        raise CompileError(f"{compiler} failed; what it said is above")
    return [out / f"{path.stem}.o" for path in files]


FUNCTION = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<arch>\w+)'"
    r"|(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes"
    r"|Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?"
)


def rows(report: str) -> list[Row]:
    """A row for each kernel and architecture in ptxas's words."""
    found: list[Row] = []
    for match in FUNCTION.finditer(report):
        said = {key: value or "0" for key, value in match.groupdict().items()}
        if match["kernel"]:
            found.append(Row(said["kernel"], said["arch"], 0, 0, 0, 0, 0))
            continue
        # Functions that a kernel calls have lines of their own after it.
        last = found.pop()
        found.append(
            last._replace(
                registers=max(last.registers, int(said["registers"])),
                stack=last.stack + int(said["stack"]),
                stores=last.stores + int(said["stores"]),
                loads=last.loads + int(said["loads"]),
                shared=last.shared + int(said["shared"]),
            )
        )
    names = readable([row.kernel for row in found])
    return [row._replace(kernel=name) for row, name in zip(found, names, strict=True)]


def readable(mangled: Sequence[str]) -> list[str]:
    """forward_small<float, Simt<float, 1>>"""
    done = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    )
    short = re.sub(r"^void |stateful_lstm::(cuda::)?|\(.*$", "", done.stdout, flags=re.MULTILINE)
    return short.replace(" >", ">").splitlines()


def table(all_rows: Sequence[Row]) -> str:
    """A line for each kernel, a column for each architecture."""
    archs = list(dict.fromkeys(row.arch for row in all_rows))
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row in all_rows:
        cells[row.kernel][row.arch] = f"{row.registers}/{row.stack}/{row.spilled()}/{row.shared}"
    lines = ["registers of a thread / bytes of stack / spilled / of shared memory"]
    lines.append("".join(f"{arch:>14}" for arch in archs) + "  kernel")
    for kernel in sorted(cells):
        lines.append("".join(f"{cells[kernel].get(a, '-'):>14}" for a in archs) + f"  {kernel}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="the project's own kernels if none")
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help=f"--arch {','.join(QUICK)}")
    parser.add_argument("--check", action="store_true", help="fail where registers are spilled")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--jobs", type=int, help="compilers at once; default: MAX_JOBS, or the cores"
    )
    given = parser.parse_args(arguments)
    if nvcc() is None:
        print("cuda: skipped, nothing was compiled: no nvcc on the PATH or in CUDA_HOME")
        return 0
    archs = QUICK if given.quick else given.arch.split(",")
    try:
        objects = compile(archs, given.out, given.jobs, given.files)
    except CompileError as error:
        print(f"cuda: {error}", file=sys.stderr)
        return 1
    all_rows: list[Row] = []
    for path in objects:
        here = rows((given.out / "report" / f"{path.stem}.txt").read_text())
        all_rows += here
    (given.out / "report" / "summary.txt").write_text(table(all_rows))
    spilling = [row for row in all_rows if row.spilled()]
    for row in spilling:
        print(f"cuda: {row.kernel} on {row.arch} spills {row.stores} + {row.loads} bytes")
    return 1 if given.check and spilling else 0


if __name__ == "__main__":
    sys.exit(main())
