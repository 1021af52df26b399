"""Other process defaults. Results must not depend on them."""

from contextlib import contextmanager

import torch


def other_device():
    """The meta device replaces CUDA: a tensor created there by mistake has no values."""
    return torch.device("meta")


@contextmanager
def other_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


OTHER_DEFAULTS = (other_device, other_dtype)
