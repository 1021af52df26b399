"""The kinds of sequences that are taken, and how their steps are read."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..backend.arguments import described

Steps = Tensor | NDArray[Any]  # (T, ...): the steps of one sequence


def as_tensor(steps: Steps) -> Tensor:
    """Shares memory with an array where it can; what torch cannot share is copied."""
    if isinstance(steps, Tensor):
        return steps.detach()
    array = np.asarray(steps)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    shared = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if shared else array.copy())


def whole_number(value: Any, name: str) -> int:
    """Python's int for any integer, NumPy's too."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


def yes_or_no(value: Any, name: str) -> bool:
    """Python's bool, or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {described(value)}")
    return bool(value)


def check_sequences(sequences: Any, name: str) -> None:
    """There are sequences in it, with numbers from 0 on, and it is not itself a sequence."""
    expected = f"{name} must be a list of arrays (T, ...) or one array (N, T, ...)"
    kind = type(sequences).__name__
    if _is_frame(sequences):
        raise TypeError(f"{expected}, got a {kind}: give one series as [frame.to_numpy()]")
    if isinstance(sequences, Mapping):
        raise TypeError(f"{expected}, got a {kind}: list(sequences.values()) may be what you want")
    if isinstance(sequences, str) or not all(
        hasattr(sequences, method) for method in ("__len__", "__getitem__")
    ):
        raise TypeError(f"{expected}, or a map-style dataset of such; got a {kind}")
    shape = (0, 0) if isinstance(sequences, Dataset) else getattr(sequences, "shape", (0, 0))
    if len(shape) < 2:
        raise ValueError(
            f"{expected}, got one array of shape {tuple(shape)}: give one series as "
            "[series.reshape(-1, 1)]"
        )


def check_length(steps: Steps, name: str) -> int:
    """How many steps a sequence has: one or more."""
    kind = type(steps).__name__
    if _is_frame(steps):  # its labels, not its steps, would be sliced
        raise TypeError(f"{name} must be a tensor or an array, got {kind}: give its to_numpy()")
    if not hasattr(steps, "shape"):
        raise TypeError(f"{name} must be a tensor or an array, got {kind}")
    if len(steps.shape) == 0 or len(steps) == 0:
        raise ValueError(f"{name} is empty: expected (T, ...), got shape {tuple(steps.shape)}")
    if isinstance(steps, np.ma.MaskedArray):  # the mask would be lost
        raise TypeError(f"{name} is a masked array: fill it, or cut the sequence where it has gaps")
    dtype = getattr(steps, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind not in "biufc":
        raise TypeError(f"{name} must have a dtype of numbers, got {dtype}")
    return len(steps)


def check_like(steps: Tensor, first: Tensor, name: str) -> None:
    """The steps of a sequence are of the shape and dtype of the first one's."""
    if steps.shape[1:] != first.shape[1:] or steps.dtype != first.dtype:
        raise ValueError(
            f"{name} has steps of shape {tuple(steps.shape[1:])}, {steps.dtype}; the first has "
            f"{tuple(first.shape[1:])}, {first.dtype}"
        )


def _is_frame(value: Any) -> bool:
    """A table or column of pandas, polars or their kin, none of which need be installed."""
    return any(base.__name__ in ("DataFrame", "Series") for base in type(value).__mro__)
