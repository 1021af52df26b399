"""Checkpoints of many ranks in one folder, by ``torch.distributed.checkpoint``.

The folder holds only tensors: other values are saved as tensors of bytes, and the unpickler of the
folder's index knows only the index's own types. So loading executes no code from the folder.

Each rank writes its part. Parameters and optimizer do not depend on the number of ranks. Rank r's
resident state (L*D, S, H) is rows r * S to (r + 1) * S of the joined state, as its batch is of the
joined batch; so another number of ranks can divide the joined rows again.
"""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as read_into
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from .checkpoint import (
    FORMAT,
    CheckpointError,
    check_format,
    check_model,
    load_plain,
    plain,
    sync_folder,
)

Rows = dict[str, tuple[Tensor, Tensor]]  # a model's resident states: its get_state()


def world() -> tuple[int, int]:
    """This rank, and the number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    states: Rows,
    rest: Mapping[str, Any],
    mine: Mapping[str, Any],
) -> None:
    """Writes a new folder, then renames it; all ranks call it.

    Args:
        path: of the folder, visible to all ranks; it replaces an old checkpoint there.
        model: bare, or wrapped by DistributedDataParallel or ``fully_shard``.
        optimizer: of the model's parameters.
        states: this rank's rows.
        rest: plain values, the same on all ranks.
        mine: plain values of this rank.

    Raises:
        FileExistsError: the folder is not empty and no checkpoint.
        TypeError: the values could not be loaded without executing code.
    """
    rank, ranks = world()
    rest, mine = plain(rest, "the checkpoint"), plain(mine, "the checkpoint")
    if path.is_dir() and any(path.iterdir()) and not _is_whole(path):
        raise FileExistsError(f"{path} is a folder but no checkpoint: it is not overwritten")
    tensors: dict[str, Tensor] = {}
    own = {
        "format": FORMAT,
        "model": _lift(get_model_state_dict(model), "model", tensors),
        "optimizer": _lift(
            plain(_optimizer_state(model, optimizer), "the optimizer"), "optimizer", tensors
        ),
        "states": list(states),
        **rest,
    }
    for name, pair in states.items():
        for kind, rows in zip("hc", pair, strict=True):
            tensors[f"states/{name}/{kind}"] = _joined(rows)
    tensors["rest"], tensors[f"rank {rank}"] = _as_bytes(own), _as_bytes(mine)

    aside, before = _beside(path)
    if rank == 0:
        found = whole(path)
        if found != path:  # a save was killed between its renames: its new folder is the checkpoint
            found.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    _barrier()
    with _quiet():
        write_tensors(tensors, storage_writer=FileSystemWriter(aside), no_dist=ranks == 1)
    if rank == 0:
        if path.exists():
            _remove(before)
            path.rename(before)
        aside.rename(path)
        sync_folder(path.parent)
        _remove(before)
    _barrier()


def whole(path: Path) -> Path:
    """The checkpoint's path; or the complete copy that a killed save has left beside it."""
    if not path.exists():
        aside, before = _beside(path)
        if _is_whole(aside):
            return aside
        if _is_whole(before) or before.is_file():
            return before
    return path


def _is_whole(folder: Path) -> bool:
    """Whether a folder is a complete checkpoint: the index is written last."""
    return (folder / ".metadata").exists()


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, names: list[str]
) -> tuple[dict[str, Any], Rows, dict[str, Any] | None]:
    """Reads and checks a folder, and changes nothing.

    Args:
        path: of the folder.
        model: the saved model, in any wrapper.
        optimizer: of the model's parameters.
        names: the keys that ``rest`` must have.

    Returns:
        The saved ``rest``, with "model" and "optimizer" for :func:`apply`; this rank's rows of the
        states; and the saved ``mine`` of the same rank, or None.

    Raises:
        CheckpointError: the folder is no checkpoint, is damaged, belongs to another model or
            optimizer, or has a number of rows that these ranks cannot divide evenly.
    """
    rank, ranks = world()
    reader = _Reader(path)
    index = reader.read_metadata()
    sizes: dict[str, TensorStorageMetadata] = {}
    for key, value in index.state_dict_metadata.items():
        if not isinstance(value, TensorStorageMetadata):
            raise CheckpointError(f"{path} is no checkpoint of a Trainer: {key} is no tensor")
        sizes[key] = value
    if "rest" not in sizes:
        raise CheckpointError(f"{path} is no checkpoint of a Trainer")

    for key, value in sizes.items():
        if key.startswith("states/"):
            _check_shares(value.size[1], path)
    rest = check_format(_read_bytes(reader, sizes, "rest", path), names, path)
    key, mine, damage = f"rank {rank}", None, ""
    try:
        mine = _read_bytes(reader, sizes, key, path)
    except _DamageError as error:  # perhaps only this rank's part is damaged
        damage = str(error)
    _agree(damage)

    parameters: dict[str, Any] = get_model_state_dict(model)
    saved = {
        key.removeprefix("model/"): value
        for key, value in sizes.items()
        if key.startswith("model/")
    }
    check_model(parameters, {name: _Shape(value.size) for name, value in saved.items()}, path)
    into: dict[str, Tensor] = {}
    for key, size in sizes.items():
        kind, _, name = key.partition("/")
        if kind == "model":
            into[key] = torch.empty_like(parameters[name])
        elif kind == "optimizer":
            into[key] = _like_parameter(name, size, parameters)
        elif kind == "states":
            LD, rows, H = size.size
            into[key] = _joined(
                torch.empty(LD, rows // ranks, H, dtype=size.properties.dtype, device="cpu")
            )
    _read(reader, into, path)
    rest["model"] = _put_back(rest["model"], into)
    rest["optimizer"] = _put_back(rest["optimizer"], into)
    states = {
        name: (_local(into[f"states/{name}/h"]), _local(into[f"states/{name}/c"]))
        for name in rest["states"]
    }
    return rest, states, mine


def share_out(states: Rows, path: Path) -> Rows:
    """This rank's rows of the states that one process saved.

    Raises:
        CheckpointError: the ranks cannot divide the rows evenly.
    """
    rank, ranks = world()
    shares = {}
    for name, pair in states.items():
        slots = pair[0].size(1)
        _check_shares(slots, path)
        h, c = (t.narrow(1, rank * (slots // ranks), slots // ranks).clone() for t in pair)
        shares[name] = (h, c)
    return shares


def _check_shares(rows: int, path: Path) -> None:
    ranks = world()[1]
    if rows % ranks:
        raise CheckpointError(
            f"{path} has states of {rows} rows, which {ranks} ranks cannot divide evenly"
        )


def apply_whole(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    contents: Mapping[str, Any],
    names: list[list[str]],
) -> None:
    """Loads the contents of one process's file into model and optimizer, sharded or not.

    Args:
        model: wrapped.
        optimizer: of the model's parameters.
        contents: "model" and "optimizer", the ``state_dict()`` of each.
        names: the parameters' names in each of the optimizer's groups.
    """
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, dict(contents["model"]), options=options)
    saved = contents["optimizer"]
    if not saved["state"]:
        optimizer.state.clear()
        return
    flat = [name for group in names for name in group]
    state = {flat[k]: dict(value) for k, value in saved["state"].items()}
    groups = [
        {**group, "params": own} for group, own in zip(saved["param_groups"], names, strict=True)
    ]
    both: dict[str, Any] = {"state": state, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, both, options=options)


def apply(model: nn.Module, optimizer: torch.optim.Optimizer, rest: Mapping[str, Any]) -> None:
    """Loads the result of :func:`load` into model and optimizer."""
    set_model_state_dict(model, rest["model"])
    if rest["optimizer"]["state"]:
        set_optimizer_state_dict(model, optimizer, rest["optimizer"])
    else:
        optimizer.state.clear()


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by the parameters' names; empty before the first update."""
    if not optimizer.state:
        return {"state": {}, "param_groups": []}
    return dict(get_optimizer_state_dict(model, optimizer))


def _lift(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Moves all tensors into ``tensors``, by their place, and leaves their keys behind."""
    if isinstance(value, Tensor):
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": {name: _lift(v, f"{key}/{name}", tensors) for name, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [_lift(v, f"{key}/{k}", tensors) for k, v in enumerate(value)]}
    return {"value": value}


def _put_back(value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_lift`."""
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {name: _put_back(v, tensors) for name, v in inside.items()}
    if kind == "list":
        return [_put_back(v, tensors) for v in inside]
    return inside


def _as_bytes(value: Mapping[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(dict(value), buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


class _DamageError(CheckpointError):
    """Damage that this rank found in a read of all ranks."""


def _read_bytes(
    reader: FileSystemReader, sizes: Mapping[str, TensorStorageMetadata], key: str, path: Path
) -> Any:
    """The value saved under this key, or None. All ranks call it, each with its own key."""
    if key not in sizes:  # the other ranks wait for this rank
        _read(reader, {}, path)
        return None
    into = torch.empty(sizes[key].size, dtype=torch.uint8, device="cpu")
    _read(reader, {key: into}, path)
    try:
        value = load_plain(io.BytesIO(into.numpy().tobytes()), f"{path} is damaged: {key}")
    except CheckpointError as error:
        raise _DamageError(str(error)) from error
    if not isinstance(value, dict):
        raise _DamageError(f"{path} is no checkpoint of a Trainer: {key} is no dict")
    return value


def _agree(damage: str) -> None:
    """Raises on all ranks the damage that any rank has found."""
    found: list[str] = [damage]
    if world()[1] > 1:
        found = [""] * world()[1]
        dist.all_gather_object(found, damage)
    for text in found:
        if text:
            raise CheckpointError(text)


def _read(reader: FileSystemReader, into: dict[str, Tensor], path: Path) -> None:
    try:
        with _quiet():
            read_into(into, storage_reader=reader, no_dist=world()[1] == 1)
    except CheckpointException as error:  # a BaseException
        first = next(iter(error.failures.values()))[0]
        raise CheckpointError(f"{path} is damaged: {type(first).__name__}: {first}") from error
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's warning that it assumes a single process."""
    with warnings.catch_warnings():
        if world()[1] == 1:
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


class _Shape:
    """Stands for a tensor in :func:`check_model`."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape


def _like_parameter(
    name: str, size: TensorStorageMetadata, parameters: Mapping[str, Any]
) -> Tensor:
    """An empty tensor for the optimizer's state, sharded like its parameter.

    ``name`` is "state/", the parameter's name, "/" and the quantity's name.
    """
    parameter = parameters.get(name.removeprefix("state/").rpartition("/")[0])
    if parameter is not None and parameter.shape == size.size:
        return torch.empty_like(parameter, dtype=size.properties.dtype)
    return torch.empty(size.size, dtype=size.properties.dtype, device="cpu")


def _joined(rows: Tensor) -> Tensor:
    """This rank's rows (LD, S, H) as its shard of the joined rows (LD, ranks * S, H)."""
    ranks = world()[1]
    if ranks == 1:
        return rows
    mesh = init_device_mesh(rows.device.type, (ranks,))
    return DTensor.from_local(rows, mesh, [Shard(1)], run_check=False)


def _local(rows: Tensor) -> Tensor:
    return rows.to_local() if isinstance(rows, DTensor) else rows


def _beside(path: Path) -> tuple[Path, Path]:
    """The path of the new folder, and the path of the old folder during the exchange."""
    return path.with_name(path.name + ".new"), path.with_name(path.name + ".old")


def _barrier() -> None:
    if world()[1] > 1:
        dist.barrier()


class _Reader(FileSystemReader):
    """A reader that executes no code: torch's own reader unpickles the index unrestricted."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path)
        try:
            with (path / ".metadata").open("rb") as file:
                index = _Unpickler(file).load()
        except Exception as error:
            raise CheckpointError(f"{path} is no checkpoint, or damaged: {error}") from error
        if not isinstance(index, Metadata):
            raise CheckpointError(f"{path} is no checkpoint: its index is a {type(index).__name__}")
        return index


class _Unpickler(pickle.Unpickler):
    """Knows the types of the index, and no function that executes code."""

    KNOWN = frozenset(
        {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("pathlib", "Path"),
            ("pathlib", "PosixPath"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "Metadata",
                    "MetadataIndex",
                    "TensorStorageMetadata",
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "TensorProperties",
                    "StorageMeta",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"its index names {module}.{name}")
        return super().find_class(module, name)
