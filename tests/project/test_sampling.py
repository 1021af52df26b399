"""The marker `sampled`: `make test` still has every value of every parameter."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
CONFTEST = f"""
import sys
import pytest
sys.path.insert(0, {str(HELPERS)!r})
import sampling

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    sampling.mark_slow(items)

def pytest_configure(config):
    config.addinivalue_line("markers", "slow")
    config.addinivalue_line("markers", "sampled")
"""
TESTS = """
import pytest

LISTS = [
    pytest.mark.parametrize(("a", "b"), [(k, str(k)) for k in range(3)]),
    pytest.mark.parametrize("c", ["x", "y"]),
    pytest.mark.parametrize("d", range(10, 15)),
]

def combined(test):
    for each in LISTS:
        test = each(test)
    return test

@pytest.mark.sampled
@combined
def test_all(a, b, c, d):
    pass

@pytest.mark.sampled(most=2)
@combined
def test_two(a, b, c, d):
    pass

@pytest.mark.sampled(most=7)
@combined
def test_seven(a, b, c, d):
    pass

@pytest.mark.parametrize("a", range(4))
def test_whole(a):
    pass
"""


def test_every_value_is_in_a_sample_that_is_not_too_large(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "not slow"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = defaultdict(list)
    for name, ids in re.findall(r"::test_(\w+)\[(.*)\]", said):
        found[name].append(ids.split("-"))
    assert {name: len(tests) for name, tests in found.items()} == {
        "all": 5,
        "two": 2,
        "seven": 5,
        "whole": 4,
    }
    values = [set(column) for column in zip(*found["all"], strict=True)]
    assert sorted(map(len, values)) == [2, 3, 3, 5]
