"""The folders of csrc include only the files they may know, and each header parses alone."""

import re
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# The files that each folder may include besides its own and standard C++ headers. "": csrc itself.
MAY_INCLUDE = {
    "": set(),
    "cpu": {"", "immintrin.h", "cpuid.h", "sys/syscall.h", "unistd.h"},
    "cuda": {"", "cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h"},
    "runtime": {"", "cpu", "sys/mman.h"},
    "bindings": {"", "runtime", "cpu/kernels.h", "cuda/launcher.h", "torch", "ATen", "Python.h"}
    | {"dlfcn.h"},
}
EXCEPTIONS = {
    ("runtime/torch_threads.h", "torch/csrc/stable/ops.h"),
    # Only where the emulator compiles the kernels.
    ("cuda/call.h", "../../tests/emulator/launch.h"),
    ("cuda/device.h", "../../tests/emulator/emulator.h"),
}
EQUATIONS = "lstm_equations.h"  # for kernels only
# These two begin and end the file of an instruction set: they are no headers to read alone.
FRAGMENTS = {CSRC / "cpu" / "isa" / "begin.h", CSRC / "cpu" / "isa" / "end.h"}
HEADERS = sorted(
    path
    for path in CSRC.rglob("*.h")
    if path not in FRAGMENTS and path.relative_to(CSRC).parts[0] != "cuda"
)


def folder_of(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""


def misfits(name: str, text: str) -> list[str]:
    """The includes of a file that its folder may not have, as it writes them."""
    text = re.sub(r"\\\n", " ", text)
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    wrong = []
    for directive, what in re.findall(r"^\s*#\s*(include\w*|import)\b(.*)", text, re.MULTILINE):
        found = re.fullmatch(r'\s*(["<])([^">]+)[">]\s*', what)
        if directive != "include" or found is None:
            wrong.append(f"{directive}{what}")
        elif (name, found[2]) not in EXCEPTIONS and not fits(name, found[1], found[2]):
            wrong.append(found[2])
    return wrong


def fits(name: str, quote: str, included: str) -> bool:
    allowed = MAY_INCLUDE[folder_of(name)]
    if ".." in included or included.startswith("./"):
        return False
    if quote == "<" and re.fullmatch(r"[a-z_]+", included):
        return True
    if quote == "<":
        return included in allowed or folder_of(included) in allowed - {""}
    if included == EQUATIONS and folder_of(name) in ("bindings", "runtime"):
        return False
    own = folder_of(included) == folder_of(name)
    return (CSRC / included).is_file() and (
        own or included in allowed or folder_of(included) in allowed
    )


FILES = {str(p.relative_to(CSRC)): p for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu"}}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_includes_only_what_its_folder_may_know(name: str) -> None:
    assert misfits(name, FILES[name].read_text()) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cpu/pack.h", "#include <torch/csrc/stable/ops.h>"),
        ("cpu/pack.h", "/* */ #include <torch/csrc/stable/ops.h>"),
        ("cpu/pack.h", "#include \\\n  <torch/csrc/stable/ops.h>"),
        ("cpu/pack.h", "#define T <torch/csrc/stable/ops.h>\n#include T"),
        ("cpu/pack.h", "#import <c10/util/Half.h>"),
        ("cpu/pack.h", "#include_next <Python.h>"),
        ("cpu/pack.h", "#include <structmember.h>"),
        ("cpu/pack.h", '#include "../runtime/torch_threads.h"'),
        ("cpu/pack.h", '#include "isa/../../runtime/layer.h"'),
        ("cpu/pack.h", '#include "runtime/layer.h"'),
        ("cpu/pack.h", "#include <runtime/layer.h>"),
        ("cuda/per_step.h", '#include "cpu/kernels.h"'),
        ("runtime/layer.h", '#include "bindings/tensor_view.h"'),
        ("runtime/layer.h", "#include <torch/csrc/stable/ops.h>"),
        ("bindings/operators.h", '#include "lstm_equations.h"'),
        ("bindings/operators.h", '#include "cpu/simd.h"'),
        ("params.h", '#include "./cpu/pack.h"'),
        ("params.h", '#include "cpu/pack.h"'),
    ],
)
def test_a_wrong_include_is_found(name: str, line: str) -> None:
    assert len(misfits(name, f"#pragma once\n{line}\n")) == 1


@cache
def compiler() -> list[str]:
    """g++ with the include paths of setup.py, to check syntax."""
    from torch.utils.cpp_extension import include_paths

    paths = [*include_paths(), sysconfig.get_paths()["include"]]
    flags = ["-std=c++17", "-w", "-fsyntax-only", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    system = [word for path in paths for word in ("-isystem", path)]
    return ["g++", *flags, "-DPy_LIMITED_API=0x030A0000", *system, f"-I{CSRC}", "-x", "c++"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("path", HEADERS, ids=lambda path: str(path.relative_to(CSRC)))
def test_each_header_parses_alone(path: Path) -> None:
    done = subprocess.run([*compiler(), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
