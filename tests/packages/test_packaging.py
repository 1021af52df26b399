"""The source archive and a wheel's Python files; `make test-packages` builds and installs them."""

import ast
import os
import re
import subprocess
import sys
import tarfile
from email import message_from_bytes

import pytest
from packages import contents
from packages.contents import ROOT

import stateful_lstm

# What lies about in a checkout that has been worked in.
LITTER = (
    "stateful_lstm/_C.abi3.so",
    "stateful_lstm/data/__pycache__/window.cpython-311.pyc",
    "tests/emulator/__pycache__/build.cpython-311.pyc",
    "tests/emulator/emulator.so",
    "build/lib/stateful_lstm/old.py",
    "build/cuda/grid.o",
    "dist/stateful_lstm-0.0.1.tar.gz",
    "notes.txt",
)


def setup_py(folder, *arguments, **env):
    """Runs setup.py in a folder, with these environment variables besides."""
    command = [sys.executable, "setup.py", "-q", *map(str, arguments)]
    env = {**os.environ, **env}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the source archive, and in lib/ the wheel's Python files."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository here, which says what belongs to the source")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    contents.copy_tracked(source)
    for name in LITTER:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("litter")
    commands = ("sdist", "--dist-dir", out, "build_py", "--build-lib", out / "lib")
    # Neither asks for a compiler, even where the CUDA kernels are wanted.
    done = setup_py(source, *commands, FORCE_CPU="", FORCE_CUDA="1", CUDA_HOME="", PATH="")
    assert done.returncode == 0, done.stderr
    return out


def sdist(made):
    (archive,) = made.glob("*.tar.gz")
    return archive


def test_the_source_archive_holds_the_source_and_nothing_else(made):
    assert contents.sdist_difference(sdist(made)) == ([], [])


def test_a_wheel_holds_the_package_and_nothing_else(made):
    """Every folder of it, the stubs and py.typed."""
    lib = made / "lib"
    held = {path.relative_to(lib).as_posix() for path in lib.rglob("*") if path.is_file()}
    assert held == contents.package_files()
    assert {"stateful_lstm/py.typed", "stateful_lstm/_C.pyi"} < held


def test_the_metadata(made):
    with tarfile.open(sdist(made)) as tar:
        about = tar.extractfile(f"stateful_lstm-{stateful_lstm.__version__}/PKG-INFO")
        metadata = message_from_bytes(about.read())
    assert metadata["Version"] == stateful_lstm.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert (
        metadata["License-Expression"] == "BSD-3-Clause" and metadata["License-File"] == "LICENSE"
    )
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# stateful_lstm")
    needed = metadata.get_all("Requires-Dist")
    assert {"torch>=2.11", "numpy>=1.24"} == {each for each in needed if "extra" not in each}
    for extra, package in (("demo", "matplotlib"), ("dev", "mypy"), ("dev", "pytest")):
        assert any(each.startswith(package) and f'"{extra}"' in each for each in needed)


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        (
            "raise ImportError('no torch')",
            r"cannot import torch .*pip install --no-build-isolation",
        ),
        ("__version__ = '2.10.1+cu130'", r"needs torch >= 2\.11 .*, found 2\.10\.1\+cu130"),
    ],
)
def test_a_build_without_the_right_torch_says_what_to_do(torch, said, tmp_path):
    (tmp_path / "torch" / "utils").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text(torch)
    (tmp_path / "torch" / "utils" / "__init__.py").touch()
    extension = "BuildExtension = CppExtension = include_paths = None"
    (tmp_path / "torch" / "utils" / "cpp_extension.py").write_text(extension)
    done = setup_py(ROOT, "--version", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert re.search(said, done.stderr, flags=re.DOTALL), done.stderr


def test_the_stubs_name_what_the_library_has():
    from stateful_lstm import _C

    stubs = ast.parse((ROOT / "stateful_lstm" / "_C.pyi").read_text())
    named = {node.name for node in stubs.body if isinstance(node, ast.FunctionDef)}
    assert named == {name for name in vars(_C) if not name.startswith("__")}
