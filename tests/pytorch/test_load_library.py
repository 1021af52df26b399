"""The operators' library loads as the page on exporting says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stateful_lstm.backend import operators

LIBRARY = Path(operators.__file__).parents[1] / "_C.abi3.so"
PAGE = Path(__file__).parents[2] / "docs" / "compile.md"
LOADS = """
import sys, torch
torch.ops.load_library(sys.argv[1])
assert torch.ops.stateful_lstm.lstm_forward.default and "stateful_lstm" not in sys.modules
"""


def test_python_loads_the_operators_without_the_package():
    subprocess.run([sys.executable, "-c", LOADS, LIBRARY], check=True)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_page_says_whether_a_program_without_python_can_load_them():
    command = ["nm", "-D", "--undefined-only", LIBRARY]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needs_python = bool(re.search(r" U _?Py", symbols))
    says_so = "a C++ program without Python cannot load it" in " ".join(PAGE.read_text().split())
    assert says_so == needs_python
