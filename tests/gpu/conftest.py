"""These tests are for a machine with a GPU; elsewhere each is skipped, with the reason."""

import pytest
from gpu_support import ASKED, why_not


@pytest.fixture(scope="session", autouse=True)
def device_is_there():
    lacking = why_not()
    if lacking and ASKED:
        pytest.exit(f"STATEFUL_LSTM_TEST_DEVICE={ASKED}, but {lacking}", returncode=1)
    if lacking:
        pytest.skip(lacking)


def pytest_itemcollected(item):
    # Warnings of the GPU's libraries differ from machine to machine and do not affect results.
    item.add_marker(pytest.mark.filterwarnings("default::UserWarning"))
