"""Checks the types of sequences, and reads their steps."""

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
    """A tensor that shares the array's memory; a copy where torch cannot share it."""
    if isinstance(steps, Tensor):
        return steps.detach()
    array = np.asarray(steps)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    shared = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if shared else array.copy())


def whole_number(value: Any, name: str) -> int:
    """Returns any integer, NumPy's too, as Python's int.

    Raises:
        TypeError: the value is not a whole number.
    """
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


def yes_or_no(value: Any, name: str) -> bool:
    """Returns Python's or NumPy's bool as Python's bool.

    Raises:
        TypeError: the value is not a bool.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {described(value)}")
    return bool(value)


def check_sequences(sequences: Any, name: str) -> None:
    """Checks for a collection of sequences with indices from 0, not a single sequence.

    Raises:
        TypeError: the value is a table, a dict, or no collection.
        ValueError: the value is a single sequence.
    """
    expected = f"{name} must be a list of arrays (T, ...) or one array (N, T, ...)"
    kind = type(sequences).__name__
    if _is_frame(sequences):
        raise TypeError(f"{expected}, got a {kind}: pass one series as [frame.to_numpy()]")
    if isinstance(sequences, Mapping):
        raise TypeError(f"{expected}, got a {kind}: pass list(sequences.values())")
    if isinstance(sequences, str) or not all(
        hasattr(sequences, method) for method in ("__len__", "__getitem__")
    ):
        raise TypeError(f"{expected}, or a map-style dataset of arrays; got a {kind}")
    shape = (0, 0) if isinstance(sequences, Dataset) else getattr(sequences, "shape", (0, 0))
    if len(shape) < 2:
        raise ValueError(
            f"{expected}, got one array of shape {tuple(shape)}: pass one series as "
            "[series.reshape(-1, 1)]"
        )


def check_length(steps: Steps, name: str) -> int:
    """Returns the number of steps of a sequence: 1 or more.

    Raises:
        TypeError: the value is no tensor or array, or its dtype holds no numbers.
        ValueError: the sequence is empty.
    """
    kind = type(steps).__name__
    if _is_frame(steps):  # a slice would select labels, not steps
        raise TypeError(f"{name} must be a tensor or an array, got {kind}: pass its to_numpy()")
    if not hasattr(steps, "shape"):
        raise TypeError(f"{name} must be a tensor or an array, got {kind}")
    if len(steps.shape) == 0 or len(steps) == 0:
        raise ValueError(f"{name} is empty: expected (T, ...), got shape {tuple(steps.shape)}")
    if isinstance(steps, np.ma.MaskedArray):  # the mask would be lost
        raise TypeError(f"{name} is a masked array: fill it, or cut the sequence at its gaps")
    dtype = getattr(steps, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind not in "biufc":
        raise TypeError(f"{name} must have a dtype of numbers, got {dtype}")
    return len(steps)


def check_like(steps: Tensor, first: Tensor, name: str) -> None:
    """Checks that a sequence's steps have the shape and dtype of the first sequence's steps.

    Raises:
        ValueError: they differ.
    """
    if steps.shape[1:] != first.shape[1:] or steps.dtype != first.dtype:
        raise ValueError(
            f"{name} has steps of shape {tuple(steps.shape[1:])}, {steps.dtype}; the first has "
            f"{tuple(first.shape[1:])}, {first.dtype}"
        )


def _is_frame(value: Any) -> bool:
    """Whether a value is a table or column of pandas, polars or a similar library."""
    return any(base.__name__ in ("DataFrame", "Series") for base in type(value).__mro__)
