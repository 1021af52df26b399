"""Builds the source archive and the wheel, and uses them in clean environments of each Python.

    python tests/packages/check.py [--torch torch==2.11.0] [--python 3.10 3.13] [--keep]

It needs what requirements/packages.txt and dev.txt name, and downloads another torch than the one
here for each Python. That may bring CUDA's libraries along, some 5 GB unpacked; an environment is
removed after its check. What the commands said is in build/packages/log.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import contents
import torch

HERE = Path(__file__).resolve().parent
OUT = contents.ROOT / "build" / "packages"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TAG = "cp310-abi3-linux"
CSRC = contents.ROOT / "csrc"
TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # as setup.py has it
SOURCE_NEEDS = ("setuptools>=77", "ninja")  # as the README has it


class Checked(NamedTuple):
    """A row of the table at the end."""

    python: str
    torch: str
    quick_step: str
    seconds: float


def run(*command: str | Path, fails: str = "", **options) -> str:
    """What a command says, which goes to the log too; it must succeed, or fail and say `fails`."""
    line = " ".join(map(str, command))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    with open(OUT / "log", "a") as log:
        log.write(f"$ {line}\n{done.stdout}\n")
    if bool(done.returncode) != bool(fails) or fails not in done.stdout:
        print(done.stdout[-6000:])
        wanted = f"should have failed and said {fails!r}" if fails else "failed"
        sys.exit(f"packages: this {wanted} (status {done.returncode}): {line}")
    return done.stdout


def build() -> tuple[Path, Path]:
    """The source archive of a clean copy, and the wheel that comes out of that archive."""
    with tempfile.TemporaryDirectory() as clean:
        contents.copy_tracked(Path(clean))
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", OUT, clean)
    (sdist,), (wheel,) = OUT.glob("*.tar.gz"), OUT.glob("*.whl")
    return sdist, wheel


def check_archives(sdist: Path, wheel: Path) -> None:
    """What they hold, the wheel's tag, its use of Python's ABI, the metadata, the stubs."""
    for archive, difference in (
        (sdist, contents.sdist_difference(sdist)),
        (wheel, contents.wheel_difference(wheel)),
    ):
        if difference != ([], []):
            sys.exit("packages: {}: lacks {}; should not hold {}".format(archive.name, *difference))
    if not wheel.stem.split("-", 2)[2].startswith(TAG):
        sys.exit(f"packages: expected a wheel for {TAG}, got {wheel.name}")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    run(sys.executable, "-m", "abi3audit", "--strict", "--verbose", wheel)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        env = {**os.environ, "PYTHONPATH": folder}
        run(sys.executable, "-m", "mypy.stubtest", "stateful_lstm._C", cwd=folder, env=env)


def find_python(version: str) -> str | None:
    """A Python of that version that can make environments: on the PATH, or pyenv's."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for found in (shutil.which(name), *pyenv.glob(f"versions/{version}.*/bin/{name}")):
        if found is None:
            continue
        probe = [found, "-c", "import ensurepip, venv"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return str(found)
    return None


class Environment:
    """A clean environment, in which the checkout cannot be seen."""

    def __init__(self, python: str, version: str) -> None:
        self.folder = OUT / f"env-{version}"
        self.python = self.folder / "bin" / "python"
        self.version = version
        run(python, "-m", "venv", "--clear", self.folder)
        # No compiler, and nothing of the environment that this script runs in.
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "STATEFUL_LSTM_CPU")
        self.env = {key: value for key, value in os.environ.items() if key not in hidden}
        self.env["PATH"] = str(self.folder / "bin")

    def __call__(self, *arguments: str | Path, fails: str = "", compiler: bool = False) -> str:
        """Runs this environment's Python in an empty folder."""
        path = os.pathsep.join([self.env["PATH"], os.environ["PATH"]])
        # The CUDA kernels would take long, and `make cuda` compiles them.
        env = {**self.env, "PATH": path, "FORCE_CPU": "1"} if compiler else self.env
        with tempfile.TemporaryDirectory() as empty:
            return run(self.python, *arguments, fails=fails, cwd=empty, env=env)

    def install(self, *packages: str | Path) -> None:
        """Wheels only: nothing is compiled."""
        self("-m", "pip", "install", "--only-binary", ":all:", *packages)

    def use(self) -> Checked:
        """Everything that a user does first, with warnings as errors."""
        begin = time.monotonic()
        found = json.loads(self("-I", "-W", "error", HERE / "installed.py"))
        said = json.loads(self("-I", "-W", "error", "-m", "stateful_lstm"))
        if said["torch"].split("+")[0] == torch.__version__.split("+")[0]:
            sys.exit(f"packages: torch {said['torch']} is the one that built the wheel")
        if said["backends"]["cpu"] is not True or said["quick_step"] != found["quick_step"]:
            sys.exit(f"packages: `python -m stateful_lstm` says {said}")
        self("-m", "pip", "check")
        # mypy is not installed there: it looks at that environment from outside.
        mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=")
        cache = ("--cache-dir", OUT / "mypy")
        target = ("--python-executable", self.python, "--python-version", self.version)
        with tempfile.TemporaryDirectory() as empty:
            run(*mypy, *cache, *target, HERE / "typed.py", cwd=empty, env=self.env)
        seconds = time.monotonic() - begin
        return Checked(said["python"], said["torch"], str(said["quick_step"]), seconds)

    def read_sources(self) -> None:
        """All C++ with this torch's headers, CUDA's binding too: g++ reads it and makes nothing."""
        code = (
            "import sysconfig; from torch.utils.cpp_extension import include_paths as paths; "
            "print(*paths(), sysconfig.get_paths()['include'], sep='\\n')"
        )
        headers = self("-W", "ignore", "-c", code).splitlines()
        flags = ["-std=c++17", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]
        flags += [f"-isystem{folder}" for folder in headers if os.path.isabs(folder)]
        for source in sorted(CSRC.glob("*.cpp")):
            run(os.environ.get("CXX", "g++"), "-fsyntax-only", TARGET, *flags, source)

    def use_source(self, sdist: Path, other_torch: str) -> None:
        """From the archive, as the README says; an isolated build has no torch, and says so."""
        self("-m", "pip", "install", other_torch, *SOURCE_NEEDS)
        self("-m", "pip", "uninstall", "--yes", "stateful_lstm")
        install = ("-m", "pip", "install", "--verbose")
        self(*install, sdist, fails="pip install --no-build-isolation .", compiler=True)
        self(*install, "--no-build-isolation", sdist, compiler=True)
        self.use()
        self.read_sources()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="torch==2.11.0", help="another than the one here")
    parser.add_argument(
        "--python",
        nargs="+",
        metavar="VERSION",
        help=f"each must be here; without it: those of {', '.join(PYTHONS)} that are",
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the environments")
    given = parser.parse_args(arguments)
    pythons = {version: find_python(version) for version in given.python or PYTHONS}
    found = {version: python for version, python in pythons.items() if python}
    lacking = [version for version in pythons if version not in found]
    if not found or (given.python and lacking):
        sys.exit(f"packages: not here, or without venv: Python {', '.join(lacking)}")
    here = "{}.{}".format(*sys.version_info)
    source_in = here if here in found else next(iter(found))  # `make` knows that one has headers

    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    print(f"packages: building with torch {torch.__version__}; log in {OUT}/log", flush=True)
    sdist, wheel = build()
    check_archives(sdist, wheel)
    print(f"packages: {sdist.name} and {wheel.name} hold what they should", flush=True)
    for version, python in pythons.items():
        if python is None:
            print(f"packages: skipped: no python{version}", flush=True)
            continue
        environment = Environment(python, version)
        environment.install(given.torch, wheel)
        checked = environment.use()
        print(
            f"packages: Python {checked.python}, torch {checked.torch}: the wheel works;"
            f" quick step: {checked.quick_step}; {checked.seconds:.0f} s",
            flush=True,
        )
        if version == source_in:
            environment.use_source(sdist, given.torch)
            print(f"packages: Python {checked.python}: so does the source archive", flush=True)
        if not given.keep:
            shutil.rmtree(environment.folder)
    print(f"packages: {len(found)} of {len(pythons)} Pythons passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
