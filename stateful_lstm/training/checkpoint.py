"""Checkpoints in one file: written aside and renamed, read without executing anything."""

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
    """A file that is no checkpoint, is damaged, or belongs to another model or optimizer."""


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes to a file beside ``path`` and renames it: at any moment one of the two is whole.

    Raises:
        TypeError: for contents that could not be read again; ``path`` is left alone then.
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
    """So that a rename in it outlives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """The contents of a file, all on the CPU. No code in it is executed.

    Raises:
        CheckpointError: if it is no such file, or damaged.
        FileNotFoundError: if there is none.
    """
    contents = load_plain(path, f"{path} is no checkpoint, or damaged")
    return check_format(contents, names, path)


def load_plain(source: Path | IO[bytes], failure: str) -> Any:
    """What was written of tensors and plain values, on the CPU. No code is executed.

    Raises:
        CheckpointError: ``failure``, and why.
        FileNotFoundError: if there is no such file.
    """
    try:
        _check_sums(source)
        return torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:  # torch's text tells how to load it all the same
        raise CheckpointError(
            f"{failure}: it names what is neither tensor nor plain value"
        ) from error
    except Exception as error:  # torch raises what it happens to stumble over
        first_line = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(f"{failure}: {first_line}") from error


def _check_sums(source: Path | IO[bytes]) -> None:
    """Looks at the checksums that torch writes with all tensors, and does not look at itself."""
    if not zipfile.is_zipfile(source):
        return  # torch says what is wrong with it
    with zipfile.ZipFile(source) as archive:
        broken = archive.testzip()
    if not isinstance(source, Path):
        source.seek(0)
    if broken is not None:
        raise ValueError(f"the checksum of {broken} is wrong")


def check_format(contents: Any, names: Iterable[str], path: Path) -> dict[str, Any]:
    """Returns the contents if they are a Trainer's, with all these parts."""
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
    """The same value of types that can be read again without executing anything.

    NumPy's numbers become Python's; where nothing is to be changed, it is the same object.

    Raises:
        TypeError: for anything else, with the place where it was found.
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
        f"{where} is a {type(value).__name__}: only tensors, numbers, texts, lists and "
        "dicts of them can be saved, so that loading never executes code"
    )


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


def check_model(own: Mapping[str, Any], saved: Any, path: Path) -> None:
    """The same names and shapes as the model has now."""
    if not isinstance(saved, Mapping) or set(own) != set(saved):
        names = set(saved) if isinstance(saved, Mapping) else set()
        raise CheckpointError(
            f"{path} is of another model: it lacks {sorted(set(own) - names)} and has "
            f"{sorted(names - set(own))}, which the model has not"
        )
    for name, value in own.items():
        if isinstance(value, Tensor) and value.shape != getattr(saved[name], "shape", None):
            shape = getattr(saved[name], "shape", None)
            raise CheckpointError(
                f"{path} is of another model: {name} is {tuple(value.shape)}, there it is "
                f"{None if shape is None else tuple(shape)}"
            )


def check_optimizer(own: Mapping[str, Any], saved: Any, path: Path) -> None:
    """The same groups, with settings of the same names, as the optimizer has now."""
    groups = own["param_groups"]
    found = saved.get("param_groups") if isinstance(saved, Mapping) else None
    sound = isinstance(found, list) and all(isinstance(group, Mapping) for group in found)
    if not sound or found is None or len(found) != len(groups):
        raise CheckpointError(f"{path} is of another optimizer: expected {len(groups)} groups")
    for k, (group, other) in enumerate(zip(groups, found, strict=True)):
        # A scheduler, which is looked at later, adds its own setting to the groups.
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
