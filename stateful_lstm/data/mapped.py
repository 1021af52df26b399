"""Pickles memory-mapped arrays as the name of their file, not as their bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class _Place(NamedTuple):
    """The place of an array in a file."""

    filename: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # bytes from the file's beginning
    strides: tuple[int, ...]


def as_places(sequences: Any) -> Any:
    """Replaces memory-mapped arrays, in a list or tuple too, by their places in files."""
    if isinstance(sequences, np.ndarray):
        return _place(sequences) or sequences
    if type(sequences) in (list, tuple):
        return type(sequences)(as_places(one) for one in sequences)
    return sequences


def as_arrays(sequences: Any) -> Any:
    """The inverse of :func:`as_places`: maps the files again, read-only."""
    if isinstance(sequences, _Place):
        return _mapped(sequences)
    if type(sequences) in (list, tuple):
        return type(sequences)(as_arrays(one) for one in sequences)
    return sequences


def _place(array: np.ndarray[Any, Any]) -> _Place | None:
    """The place of an array; None if it is in memory, or maps its file copy-on-write."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None or root.mode == "c":
        return None
    offset = root.offset + _address(array) - _address(root)
    return _Place(str(root.filename), array.dtype, array.shape, offset, array.strides)


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _mapped(place: _Place) -> np.ndarray[Any, Any]:
    whole = np.memmap(place.filename, dtype=np.uint8, mode="r")
    array: np.ndarray[Any, Any] = np.ndarray(
        place.shape, place.dtype, whole, place.offset, place.strides
    )
    return array
