"""In a plain install every call works, or names the package it needs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_support import name, python_blocks

import stateful_lstm
from stateful_lstm import data, interop, training

HERE = Path(__file__).parent
MODULES = (stateful_lstm, data, interop, training)
PUBLIC = [f"{module.__name__}.{each}" for module in MODULES for each in module.__all__]
NEEDED = {  # what truly needs another package
    "stateful_lstm.interop.export_onnx": "onnx",
    "stateful_lstm.interop.onnx_translations": "onnxscript",
}
IMPORTS = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
BLOCKS = {f"{name(path)}:{line}": source for path, line, source in python_blocks()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What became of every call in a process that has no other packages."""
    script, folder = str(HERE / "bare_environment.py"), str(tmp_path_factory.mktemp("bare"))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", script, folder],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def needed(call):
    """The package that this call cannot do without, or None."""
    if call in NEEDED:
        return NEEDED[call]
    source = BLOCKS.get(call, "")
    for function, package in NEEDED.items():
        if function.rpartition(".")[2] + "(" in source:
            return package
    return None


def foreign(call):
    """Packages that an example imports itself."""
    installed = {*sys.stdlib_module_names, "torch", "numpy", "stateful_lstm"}
    return set(IMPORTS.findall(BLOCKS.get(call, ""))) - installed


@pytest.mark.parametrize("call", [*PUBLIC, "python -m stateful_lstm", *BLOCKS])
def test_it_works_or_says_what_it_needs(found, call):
    error, package = found[call]["error"], needed(call)
    if foreign(call):
        assert error.startswith("ModuleNotFoundError: ")
    elif package is not None:
        assert error.startswith("ImportError: ")
        assert re.search(rf"needs (the package )?{package}: pip install {package}$", error)
        assert not found[call]["files"]
    else:
        assert error is None, error


def test_a_fit_shows_nothing_where_there_is_no_bar(found):
    assert found["stateful_lstm.training.Trainer"]["said"] == ""


def test_other_packages_are_hidden(found):
    assert found["import pytest"]["error"] == "ModuleNotFoundError: No module named 'pytest'"
