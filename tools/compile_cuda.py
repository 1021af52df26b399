"""Compiles the CUDA kernels and reads the report of ptxas. Only this script calls nvcc for them.

    python tools/compile_cuda.py [--check] [--arch 80,90a | --quick] [--out DIR] [--jobs N]
    [FILE.cu]

Makes DIR/<file>.o of every .cu file, with machine code for all architectures. This needs no GPU,
and the objects can be linked on another machine. DIR/report/<file>.txt is the output of ptxas,
summary.txt beside it a table. With --check, a kernel that spills registers is an error. --quick
builds one variant of each type, for one architecture. Only changed files are compiled again.
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

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc/cuda"
OUT = ROOT / "build/cuda"

ARCHITECTURES = ("75", "80", "86", "89", "90a", "100a", "120")
QUICK = ("90a",)
# The architectures that device.h distinguishes. nvcc generates PTX once for each of them, and from
# this PTX the code of all chips up to the next architecture. The newest PTX stays in the objects
# for other chips.
VIRTUAL = (75, 80, 90)
# The oldest architecture on which the plan can select a kernel.
OLDEST = {"cluster_simt": 90, "block_tensor": 80, "cluster_tensor": 90, "grid_tensor": 80}
SLOWEST = ("grid_tensor", "per_step")  # compiled first; otherwise one core finishes them alone
FLAGS = [
    *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", f"-I{ROOT / 'csrc'}"),
    "--compress-mode=size",  # a sixth of the default's size
    *("--Werror=all-warnings", "-Xcompiler=-fPIC,-Wall,-Wextra,-fvisibility=hidden"),
]


class CompileError(RuntimeError):
    """Why there are no objects. The compiler's own errors are printed before."""


class Row(NamedTuple):
    """The resources of a kernel on one architecture: registers a thread, and bytes."""

    kernel: str
    arch: str
    registers: int = 0
    stack: int = 0  # bytes of arrays outside registers, and of spilled registers
    stores: int = 0  # of spilled registers
    loads: int = 0
    shared: int = 0  # static; a launch adds its own


def nvcc() -> str | None:
    """The compiler on the PATH, or in CUDA_HOME."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)


def runtime() -> Path | None:
    """CUDA's runtime as a static library, in nvcc's own toolkit."""
    compiler = nvcc()
    if compiler is None:
        return None
    command = [compiler, "--dryrun", "-x", "cu", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.*)$", said, flags=re.MULTILINE)
    home = Path(top[1].strip()) if top else Path(compiler).resolve().parents[1]
    places = [home / "lib64", home / "lib", *sorted(home.glob("targets/*/lib"))]
    files = [place / "libcudart_static.a" for place in places]
    return next((file.resolve() for file in files if file.exists()), None)


def sources() -> list[Path]:
    """All .cu files, the slowest ones first."""
    return sorted(SOURCES.glob("**/*.cu"), key=lambda path: (path.stem not in SLOWEST, path.stem))


def number(arch: str) -> int:
    """90 of 90a."""
    return int(arch.rstrip("af"))


def virtual(arch: str) -> int:
    """The PTX version from which an architecture's code is made."""
    known = [each for each in VIRTUAL if each <= number(arch)]
    return max(known, default=VIRTUAL[0])


def built_for(archs: Sequence[str]) -> str:
    """The list of architectures that the library reports to stateful_lstm/backend/cuda.py."""
    return ",".join([*archs, f"ptx{max(map(virtual, archs))}"])


def wanted(file: Path, archs: Sequence[str]) -> list[str]:
    """The architectures for which a file is compiled: at least one."""
    oldest = OLDEST.get(file.stem, 0)
    return [arch for arch in archs if number(arch) >= oldest] or [str(oldest)]


def targets(archs: Sequence[str]) -> list[str]:
    """The architectures as nvcc's flags."""
    codes = defaultdict(list)
    for arch in archs:
        codes[virtual(arch)].append(f"sm_{arch}")
    codes[max(codes)].append(f"compute_{max(codes)}")
    return [f"-gencode=arch=compute_{v},code=[{','.join(code)}]" for v, code in codes.items()]


def compile(
    archs: Sequence[str] = ARCHITECTURES,
    out: Path = OUT,
    jobs: int | None = None,
    files: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> list[Path]:
    """Compiles changed files. Returns the objects of `files`, of all kernels by default."""
    compiler, ninja = nvcc(), shutil.which("ninja")
    if compiler is None or ninja is None:
        raise CompileError(f"no {'ninja' if compiler else 'nvcc'} on the PATH")
    said = f'-DSTATEFUL_LSTM_CUDA_ARCHITECTURES="{built_for(archs)}"'
    command = shlex.join([compiler, *FLAGS, said, *flags]).replace("$", "$$")
    rules = [
        "rule nvcc",
        f"  command = {command} $targets -MD -MF $out.d -c $in -o $out"
        " > report/$name.txt 2>&1 || { cat report/$name.txt; exit 1; }",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = nvcc $name.cu",
    ]
    files = [path.resolve() for path in files or sources()]
    for path in files:
        escaped = re.sub(r"([ :$])", r"$\1", str(path))
        rules.append(f"build {path.stem}.o | report/{path.stem}.txt: nvcc {escaped}")
        rules.append(f"  name = {path.stem}")
        rules.append(f"  targets = {shlex.join(targets(wanted(path, archs)))}")
    (out / "report").mkdir(parents=True, exist_ok=True)
    (out / "build.ninja").write_text("\n".join(rules) + "\n")
    at_once = jobs or int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    done = subprocess.run([ninja, "-C", str(out), "-j", str(at_once)], check=False)
    if done.returncode != 0:
        raise CompileError("nvcc failed; its errors are above")
    return [out / f"{path.stem}.o" for path in files]


PTXAS = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<arch>\w+)'"
    r"|(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes"
    r"|Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?"
)


def read_report(text: str) -> list[Row]:
    """A row for each kernel and architecture in the report of ptxas."""
    rows: list[Row] = []
    for found in PTXAS.finditer(text):
        if found["kernel"]:
            rows.append(Row(found["kernel"], found["arch"]))
            continue
        # The first lines describe the kernel itself, the next lines the functions that it calls.
        said = {key: int(value) for key, value in found.groupdict().items() if value}
        sums = {key: getattr(rows[-1], key) + value for key, value in said.items()}
        if "registers" in said:
            sums["registers"] = max(rows[-1].registers, said["registers"])
        rows[-1] = rows[-1]._replace(**sums)
    names = readable([row.kernel for row in rows])
    return [row._replace(kernel=name) for row, name in zip(rows, names, strict=True)]


def readable(names: Sequence[str]) -> list[str]:
    """The linker's names demangled: forward_persistent_block<float, Simt<float, 1>>."""
    text = "\n".join(names)
    done = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True)
    short = re.sub(r"^void |stateful_lstm::(cuda::)?|\(.*$", "", done.stdout, flags=re.MULTILINE)
    return short.replace(" >", ">").splitlines()


def table(rows: Sequence[Row]) -> str:
    """One line for each kernel, one column for each architecture."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        numbers = (row.registers, row.stack, row.stores + row.loads, row.shared)
        cells[row.kernel][row.arch] = "/".join(map(str, numbers))
    archs = list(dict.fromkeys(row.arch for row in rows))
    lines = ["registers / bytes of stack / spilled / static shared memory"]
    lines.append("".join(f"{arch:>13}" for arch in archs) + "  kernel")
    for kernel, cell in sorted(cells.items()):
        lines.append("".join(f"{cell.get(a, '-'):>13}" for a in archs) + f"  {kernel}")
    return "\n".join(lines) + "\n"


def architectures(text: str) -> list[str]:
    """Parses the value of --arch."""
    if not re.fullmatch(r"\d+[af]?(,\d+[af]?)*", text):
        raise argparse.ArgumentTypeError(f"expected numbers as in 80,90a, got {text!r}")
    return text.split(",")


def main() -> int:
    """Runs the command, and returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.cu", help="default: all")
    parser.add_argument("--arch", type=architectures, help=f"default: {','.join(ARCHITECTURES)}")
    parser.add_argument("--quick", action="store_true", help="a part, for one architecture")
    parser.add_argument("--check", action="store_true", help="fail if a kernel spills registers")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: build/cuda[/quick]")
    parser.add_argument("--jobs", type=int, metavar="N", help="default: MAX_JOBS, or all cores")
    given = parser.parse_args()
    if nvcc() is None:
        print("cuda: skipped: no nvcc on the PATH or in CUDA_HOME, so no kernel was compiled")
        return 0
    archs = given.arch or (QUICK if given.quick else ARCHITECTURES)
    flags = ["-DLSTM_QUICK"] if given.quick else []
    out: Path = given.out or (OUT / "quick" if given.quick else OUT)
    rows: list[Row] = []
    try:
        for path in compile(archs, out, given.jobs, given.files, flags):
            found = read_report((out / "report" / f"{path.stem}.txt").read_text())
            if {row.arch for row in found} != {f"sm_{arch}" for arch in wanted(path, archs)}:
                raise CompileError(f"cannot read the report of ptxas on {path.stem}.cu")
            rows += found
    except CompileError as error:
        sys.exit(f"cuda: {error}")
    (out / "report" / "summary.txt").write_text(table(rows))
    bad = [row for row in rows if row.stack or row.stores or row.loads]
    for row in bad:
        print(
            f"cuda: {row.kernel} on {row.arch} spills registers: {row.stores} bytes stored,"
            f" {row.loads} loaded; stack of {row.stack} bytes"
        )
    most = max(rows, key=lambda row: row.registers)
    print(
        f"cuda: {len({row.kernel for row in rows})} kernels for {', '.join(archs)};"
        f" most registers: {most.registers}, {most.kernel} on {most.arch};"
        f" table in {os.path.relpath(out)}/report/summary.txt"
    )
    return 1 if bad and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
