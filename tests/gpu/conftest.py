"""These tests are for a machine with a GPU; elsewhere each file is skipped, with the reason."""

import pytest
from gpu_support import ASKED, why_not


class WithoutDevice(pytest.Module):
    """A file of tests on a machine without the device: it is not even imported."""

    def collect(self):
        pytest.skip(why_not())


def pytest_pycollect_makemodule(module_path, parent):
    lacking = why_not()
    if lacking and ASKED:
        pytest.exit(f"STATEFUL_LSTM_TEST_DEVICE={ASKED}, but {lacking}", returncode=1)
    return WithoutDevice.from_parent(parent, path=module_path) if lacking else None


def pytest_itemcollected(item):
    # Warnings of the GPU's libraries differ from machine to machine and do not affect results.
    item.add_marker(pytest.mark.filterwarnings("default::UserWarning"))
