"""What a folder of csrc may know, and that each header can be read alone."""

import re
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
TORCH_FILE = CSRC / "runtime" / "torch_threads.h"
FOLDERS = ("cpu", "runtime", "bindings")
# These two begin and end the file of an instruction set: they are no headers to read alone.
FRAGMENTS = {CSRC / "cpu" / "isa" / "begin.h", CSRC / "cpu" / "isa" / "end.h"}
HEADERS = sorted(
    path for folder in FOLDERS for path in (CSRC / folder).rglob("*.h") if path not in FRAGMENTS
)


def includes(path: Path) -> list[str]:
    """The names that a file includes, as it writes them."""
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def sources(*folders: str) -> list[Path]:
    """All files of C++ and CUDA in some folders of csrc, or in all of it."""
    roots = [CSRC / folder for folder in folders] or [CSRC]
    return sorted(p for r in roots for p in r.rglob("*") if p.suffix in {".h", ".cpp", ".cu"})


def test_torch_is_included_in_the_bindings_and_one_file_of_the_runtime_only() -> None:
    wrong = [
        f"{path.relative_to(CSRC)}: {name}"
        for path in sources()
        if "bindings" not in path.relative_to(CSRC).parts and path != TORCH_FILE
        for name in includes(path)
        if name.startswith(("torch/", "ATen/", "c10/")) or name == "Python.h"
    ]
    assert not wrong
    assert any(name.startswith("torch/") for name in includes(TORCH_FILE))


@pytest.mark.parametrize(
    ("folder", "unknown"),
    [
        ("cpu", ("bindings", "runtime", "cuda")),
        ("cuda", ("bindings", "runtime", "cpu")),
        ("runtime", ("bindings", "cuda")),
    ],
)
def test_folders_include_no_folder_above_them(folder: str, unknown: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(CSRC)}: {name}"
        for path in sources(folder)
        for name in includes(path)
        if name.split("/")[0] in unknown
    ]
    assert not wrong


def test_plain_headers_include_no_folder() -> None:
    wrong = [
        f"{path.name}: {name}"
        for path in CSRC.glob("*.h")
        for name in includes(path)
        if name.split("/")[0] in {"bindings", "runtime", "cpu", "cuda", "torch"}
    ]
    assert not wrong


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
