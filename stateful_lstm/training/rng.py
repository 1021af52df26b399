"""The states of all random generators that training may use: torch's, Python's and NumPy's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """The states, in types that ``torch.load(weights_only=True)`` reads."""
    # The global generator: a data set's own code draws from it.
    numpy: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, gauss = numpy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
    }


def restore(states: Mapping[str, Any]) -> None:
    """Restores the states that :func:`capture` returned; for CUDA, on the devices present."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


@contextmanager
def preserve() -> Iterator[None]:
    """Restores on exit the states at entry."""
    states = capture()
    try:
        yield
    finally:
        restore(states)
