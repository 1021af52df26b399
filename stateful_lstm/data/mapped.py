"""Memory-mapped arrays that go to another process as the name of their file, not as their bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class _Place(NamedTuple):
    """Where an array lies in a file."""

    filename: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # bytes from the file's beginning
    strides: tuple[int, ...]


def as_places(sequences: Any) -> Any:
    """What pickles small: memory-mapped arrays, in a list or tuple too, as places in files."""
    if isinstance(sequences, np.ndarray):
        return _place(sequences) or sequences
    if type(sequences) in (list, tuple):
        return type(sequences)(as_places(one) for one in sequences)
    return sequences


def as_arrays(sequences: Any) -> Any:
    """What :func:`as_places` was given, mapped anew; arrays cannot be written to."""
    if isinstance(sequences, _Place):
        return _mapped(sequences)
    if type(sequences) in (list, tuple):
        return type(sequences)(as_arrays(one) for one in sequences)
    return sequences


def _place(array: np.ndarray[Any, Any]) -> _Place | None:
    """None for an array in memory, or one whose changes are not those of a file."""
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
