"""Loaders of accelerate that share windows out among processes, by which rows lose their place.

They deal whole windows out in turn, or cut them along their first dimension. Neither tells the
data, but both are callers of its ``iter()``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any


def refuse_sharing_out(data: Any) -> None:
    """Looks for such a loader of ``data`` among the callers.

    Raises:
        RuntimeError: one shares out windows to several processes, other than by whole rows.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        loader = frame.f_locals.get("self") if _is_accelerates(frame) else None
        # A loader of something else may well make its items from this data.
        if getattr(loader, "dataset", None) is data:
            processes = _processes(loader)
            if processes > 1 and not _gives_rows(loader, data, processes):
                raise RuntimeError(
                    f"accelerate shares windows out to {processes} processes, and no row goes on "
                    "where it was. Leave loaders of ContinuousBatches out of prepare(): each "
                    "process has its own rows by rank=accelerator.process_index, "
                    "world_size=accelerator.num_processes"
                )
        frame = frame.f_back


def _is_accelerates(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    return module == "accelerate.data_loader" and frame.f_code.co_name == "__iter__"


def _processes(loader: Any) -> int:
    """To how many processes it gives different windows."""
    kind = type(loader).__name__
    if kind == "IterableDatasetShard":
        return int(loader.num_processes)
    if kind == "DataLoaderDispatcher" and loader.submesh_tp is None:
        return int(loader.state.num_processes)
    return 1


def _gives_rows(loader: Any, data: Any, processes: int) -> bool:
    """Whether each process gets the same rows of every window, and none is left out."""
    return (
        type(loader).__name__ == "DataLoaderDispatcher"
        and loader.split_batches
        and data.batch_first
        and data.world_size == 1
        and data.batch_size % processes == 0
    )
