"""Fixtures that every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seed():
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(20)
