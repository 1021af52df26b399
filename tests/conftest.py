"""Fixtures for all tests, and the marker `sampled`."""

import pytest
import sampling
import torch
from emulator import counts
from fastpath_support import Spy


@pytest.fixture(autouse=True)
def fixed_seed():
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(20)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny products gain nothing from threads, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads():
    """Sets the number of threads, which is put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def fresh_compiler():
    """Nothing compiled by earlier tests counts against torch.compile's limits."""
    torch._dynamo.reset()


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items):
    sampling.mark_slow(items)


def pytest_terminal_summary(terminalreporter):
    if summary := counts.summary():
        terminalreporter.write_line(f"emulator: {summary}")
