"""Detects loaders of accelerate that split windows among processes, which breaks up the rows.

Such a loader gives whole windows to processes in turn, or cuts windows along their first dimension.
The data gets no notice, but the loader is a caller of its ``iter()``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any


def refuse_sharing_out(data: Any) -> None:
    """Looks for such a loader of ``data`` among the callers.

    Raises:
        RuntimeError: a loader splits windows among processes, and not by whole rows.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        loader = frame.f_locals.get("self") if _is_accelerates(frame) else None
        # A loader of another dataset may read this data for its items.
        if getattr(loader, "dataset", None) is data:
            processes = _processes(loader)
            if processes > 1 and not _gives_rows(loader, data, processes):
                raise RuntimeError(
                    f"accelerate shares windows out to {processes} processes, so that no row "
                    "continues in the next window. Do not pass loaders of ContinuousBatches to "
                    "prepare(): give each process its own rows by rank=accelerator.process_index, "
                    "world_size=accelerator.num_processes"
                )
        frame = frame.f_back


def _is_accelerates(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    return module == "accelerate.data_loader" and frame.f_code.co_name == "__iter__"


def _processes(loader: Any) -> int:
    """The number of processes that get different windows."""
    kind = type(loader).__name__
    if kind == "IterableDatasetShard":
        return int(loader.num_processes)
    if kind == "DataLoaderDispatcher" and loader.submesh_tp is None:
        return int(loader.state.num_processes)
    return 1


def _gives_rows(loader: Any, data: Any, processes: int) -> bool:
    """Whether each process gets the same rows of every window, and all rows are used."""
    return (
        type(loader).__name__ == "DataLoaderDispatcher"
        and loader.split_batches
        and data.batch_first
        and data.world_size == 1
        and data.batch_size % processes == 0
    )
