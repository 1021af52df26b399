"""Checkpoints in one file: saving writes a new file and renames it; loading executes no code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

FORMAT = "stateful_lstm.training 1"


class CheckpointError(ValueError):
    """The file is no checkpoint, is damaged, or belongs to another model or optimizer."""


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes a file beside ``path`` and renames it: at any moment one of the two is complete.

    Raises:
        TypeError: the contents could not be loaded again; ``path`` does not change.
    """
    contents = plain(contents, "the checkpoint")
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        torch.save({"format": FORMAT, **contents}, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """The contents of a file, on the CPU. Reading executes no code from the file.

    Raises:
        CheckpointError: the file is no checkpoint, or damaged.
        FileNotFoundError: there is no file.
    """
    contents = load_plain(path, f"{path} is no checkpoint, or damaged")
    return check_format(contents, names, path)


def load_plain(source: Path | IO[bytes], failure: str) -> Any:
    """The saved tensors and plain values, on the CPU. Reading executes no code.

    Raises:
        CheckpointError: with the text ``failure`` and the reason.
        FileNotFoundError: there is no file.
    """
    try:
        _check_sums(source)
        return torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:  # torch's text explains how to load unsafely
        raise CheckpointError(
            f"{failure}: it contains an object that is neither a tensor nor a plain value"
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        first_line = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(f"{failure}: {first_line}") from error


def _check_sums(source: Path | IO[bytes]) -> None:
    """Checks the checksums that torch writes with all tensors, but does not check itself."""
    if not zipfile.is_zipfile(source):
        return  # torch reports the fault
    with zipfile.ZipFile(source) as archive:
        broken = archive.testzip()
    if not isinstance(source, Path):
        source.seek(0)
    if broken is not None:
        raise ValueError(f"the checksum of {broken} is wrong")


def check_format(contents: Any, names: Iterable[str], path: Path) -> dict[str, Any]:
    """Returns the contents of a Trainer's checkpoint that has all the named parts.

    Raises:
        CheckpointError: the contents are something else, or lack a part.
    """
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        found = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
        raise CheckpointError(
            f"{path} is no checkpoint of a Trainer: expected {FORMAT!r}, got {found!r}"
        )
    missing = [name for name in names if name not in contents]
    if missing:
        raise CheckpointError(f"{path} lacks {missing}")
    return contents


def plain(value: Any, where: str) -> Any:
    """The same value in types that load without executing code.

    NumPy's numbers become Python's numbers; a value without them is returned as it is.

    Raises:
        TypeError: the value contains another type; the text names its place.
    """
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, Mapping):
        made = {plain(k, where): plain(inner, f"{where}[{k!r}]") for k, inner in value.items()}
        if _same(made, value) and _same(made.values(), value.values()):
            return value
        return Counter(made) if isinstance(value, Counter) else made
    if type(value) in (list, tuple):
        inside = [plain(inner, f"{where}[{k}]") for k, inner in enumerate(value)]
        return value if _same(inside, value) else type(value)(inside)
    raise TypeError(
        f"{where} is a {type(value).__name__}: a checkpoint holds only tensors, numbers, strings, "
        "lists and dicts of them, so that loading never executes code"
    )


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


def check_model(own: Mapping[str, Any], saved: Any, path: Path) -> None:
    """Checks that the saved names and shapes are those of the model.

    Raises:
        CheckpointError: they are those of another model.
    """
    if not isinstance(saved, Mapping) or set(own) != set(saved):
        names = set(saved) if isinstance(saved, Mapping) else set()
        raise CheckpointError(
            f"{path} is of another model: it lacks {sorted(set(own) - names)} and has "
            f"{sorted(names - set(own))}, which the model lacks"
        )
    for name, value in own.items():
        if isinstance(value, Tensor) and value.shape != getattr(saved[name], "shape", None):
            shape = getattr(saved[name], "shape", None)
            raise CheckpointError(
                f"{path} is of another model: expected {name} of shape {tuple(value.shape)}, got "
                f"{None if shape is None else tuple(shape)}"
            )


def check_optimizer(own: Mapping[str, Any], saved: Any, path: Path) -> None:
    """Checks that the saved groups, and the names of their settings, are those of the optimizer.

    Raises:
        CheckpointError: they are those of another optimizer.
    """
    groups = own["param_groups"]
    found = saved.get("param_groups") if isinstance(saved, Mapping) else None
    sound = isinstance(found, list) and all(isinstance(group, Mapping) for group in found)
    if not sound or found is None or len(found) != len(groups):
        raise CheckpointError(f"{path} is of another optimizer: expected {len(groups)} groups")
    for k, (group, other) in enumerate(zip(groups, found, strict=True)):
        # A scheduler adds its own setting to the groups; it is checked later.
        if set(group) - {"initial_lr"} != set(other) - {"initial_lr"}:
            raise CheckpointError(
                f"{path} is of another optimizer: its group {k} has {sorted(other)}, expected "
                f"{sorted(group)}"
            )
        if len(group["params"]) != len(other["params"]):
            raise CheckpointError(
                f"{path} is of another optimizer: its group {k} has {len(other['params'])} "
                f"parameters, expected {len(group['params'])}"
            )
