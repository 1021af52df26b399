"""Compiles kernels for the emulator, into a module that Python loads.

    toys = load("toys", [HERE / "toys.cpp"], [HERE / "toys_module.cpp"])

Three kinds: "plain"; "tsan", where ThreadSanitizer watches the kernels; "asan", with
AddressSanitizer. The last two need a process that starts with `environment(kind)`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "emulator"

EMULATOR = [HERE / f"{name}.cpp" for name in ("arena", "device", "fiber", "machine", "meeting")]
FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-omit-frame-pointer"),
    "-fno-strict-aliasing",  # nvcc lets a kernel read two halves as one word
    *("-Wall", "-Wextra", "-Werror", "-DSTATEFUL_LSTM_EMULATOR"),
    "-Wno-unknown-pragmas",  # `#pragma unroll`, which is nvcc's
]
SANITIZERS = {"plain": [], "tsan": ["-fsanitize=thread"], "asan": ["-fsanitize=address"]}
RUNTIMES = {"tsan": "libtsan.so", "asan": "libasan.so"}


DOES_NOT_BUILD = "does not build:"  # mutate.py looks for it in what a test writes


class BuildError(RuntimeError):
    """With the compiler's output."""


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def load(
    name: str, kernels: Sequence[Path], others: Sequence[Path], kind: str = "plain"
) -> ModuleType:
    """Builds the module if its sources changed, and imports it."""
    library = build(name, kernels, others, kind)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(
    name: str,
    kernels: Sequence[Path],
    others: Sequence[Path],
    kind: str = "plain",
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> Path:
    """The library with these sources and the emulator: build/emulator/<kind>/<name>.so.

    Sanitizers look at `kernels`; `others` are compiled once for all kinds, with `flags`.
    """
    # ThreadSanitizer watches the kernels, not the emulator below them.
    below = ["-DEMULATOR_TSAN"] if kind == "tsan" else SANITIZERS[kind]
    objects = [compiled(source, kind, below) for source in EMULATOR]
    objects += [compiled(source, kind, SANITIZERS[kind]) for source in kernels]
    objects += [compiled(source, "plain", flags) for source in others]
    library = BUILD / kind / f"{name}.so"
    made_of = library.with_suffix(".made_of")
    wanted = " ".join(path.name for path in objects)
    if library.exists() and made_of.exists() and made_of.read_text() == wanted:
        return library
    new = library.with_suffix(".new")
    what = [*map(str, objects), *libraries, "-o", str(new)]
    run([compiler(), "-shared", *SANITIZERS[kind], *what])
    new.replace(library)  # a process may have the old one open
    made_of.write_text(wanted)
    return library


def compiled(source: Path, kind: str, flags: Sequence[str]) -> Path:
    """The object file of a source, compiled only if it or one of the project's headers has changed.

    Its name has the hash of all of them. Which headers these are, the compiler said the last time.
    """
    stem = "-".join(source.resolve().relative_to(ROOT).with_suffix("").parts)
    folder = BUILD / kind
    folder.mkdir(parents=True, exist_ok=True)
    headers = folder / f"{stem}.headers"
    flags = [*FLAGS, *flags]

    def result() -> Path:
        files = [str(source.resolve().relative_to(ROOT)), *headers.read_text().splitlines()]
        return folder / f"{stem}-{digest(flags, files)}.o"

    if headers.exists() and result().exists():
        return result()
    new, rule = folder / f"{stem}.new", folder / f"{stem}.d"
    what = ["-MMD", "-MF", str(rule), "-c", "-x", "c++", str(source), "-o", str(new)]
    run([compiler(), *flags, *places(), *what])
    # "object: source header header ...", over several lines
    used = rule.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    ours = [Path(path).resolve() for path in used]
    headers.write_text("\n".join(str(p.relative_to(ROOT)) for p in ours if ROOT in p.parents))
    for old in folder.glob(f"{stem}-{'[0-9a-f]' * 16}.o"):
        old.unlink()
    return new.replace(result())


def digest(flags: Sequence[str], files: Sequence[str]) -> str:
    """A hash of the compiler, the flags and the contents of files (paths from ROOT)."""
    whole = hashlib.sha256(repr((compiler_version(), list(flags))).encode())
    for name in files:
        path = ROOT / name
        whole.update(name.encode() + b"\0")
        whole.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"none")
    return whole.hexdigest()[:16]


@functools.cache
def compiler_version() -> str:
    return run([compiler(), "--version"])


def places() -> list[str]:
    """Flags that depend on the project's folder, though the object does not."""
    import pybind11

    system = [sysconfig.get_paths()["include"], pybind11.get_include()]
    relative = f"-ffile-prefix-map={ROOT}/="  # in messages: csrc/cuda/...
    return [relative, f"-I{ROOT / 'csrc'}", f"-I{HERE}", *(f"-isystem{path}" for path in system)]


def environment(kind: str) -> dict[str, str]:
    """The environment of a process that loads a module of this kind: sanitizers load first."""
    settings = dict(os.environ)
    if kind == "plain":
        return settings
    # Python does not link libstdc++, and a sanitizer looks for it when it is loaded.
    libraries = [runtime(RUNTIMES[kind]), runtime("libstdc++.so")]
    settings["LD_PRELOAD"] = " ".join(libraries)
    # Shared memory has the same address as in an earlier launch: report its races all the same.
    settings["TSAN_OPTIONS"] = "exitcode=66 report_thread_leaks=0 suppress_equal_addresses=0"
    settings["ASAN_OPTIONS"] = "detect_leaks=0 detect_stack_use_after_return=0"
    settings["OPENBLAS_NUM_THREADS"] = "1"
    settings["PYTHONMALLOC"] = "malloc"
    return settings


def runtime(library: str) -> str:
    """The compiler's own copy of a library; the bare name if it has none."""
    return run([compiler(), f"-print-file-name={library}"]).strip()


@functools.cache
def lacking(kind: str) -> str:
    """Why this machine cannot build or run modules of this kind, or an empty text."""
    if kind != "plain" and not Path(runtime(RUNTIMES[kind])).is_file():
        return f"{compiler()} has no {RUNTIMES[kind]}"
    started = subprocess.run(
        [sys.executable, "-c", ""],
        env=environment(kind),
        capture_output=True,
        text=True,
        check=False,
    )
    if started.returncode != 0:
        return f"Python does not start with {RUNTIMES[kind]}: {started.stderr.strip()[:200]}"
    return ""


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{DOES_NOT_BUILD} {shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
