"""``Begin``: the start of the next ``iter()``, in the main process and in workers.

A ``DataLoader`` copies the data into its workers when an iteration starts them, and the copy holds
the start. Persistent workers have older copies, so they read the start from shared memory.

A start inside an epoch holds for one iteration. The main process does not see the iterations of
workers, so workers leave a mark in shared memory: the start that they used, and their iteration.
All workers of an iteration leave the same mark, from the seed that the iteration drew. The next
iteration draws another seed, unless torch's generator is set back.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info


class Start(NamedTuple):
    """The start of an iteration, and this process's share of the windows from there."""

    epoch: int
    window: int
    first: int  # the window at which the workers' turns began
    workers: int = 1
    worker: int = 0

    def makes(self, window: int) -> bool:
        """Whether this process makes this window of the epoch."""
        return window >= self.window and (window - self.first) % self.workers == self.worker


class _Place(NamedTuple):
    epoch: int
    window: int
    change: int  # counts the changes of the place: a worker's mark contains it


class Begin:
    """The start of the next ``iter()``. A change in a worker affects only this worker."""

    def __init__(self) -> None:
        self._changes = 0
        self._place = _Place(0, 0, 0)
        self._own: Start | None = None  # set in a worker, for its next iteration
        self._iterations = 0  # iterations of this worker
        self._share()

    def _share(self) -> None:
        self._owner = os.getpid()
        # The place, for persistent workers; and the mark, which workers write.
        self._shared = torch.zeros(4, dtype=torch.int64, device="cpu").share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration."""
        return self._place_of_main().epoch if self._own is None else self._own.epoch

    def set(self, epoch: int, window: int, first: int | None = None) -> None:
        """Sets the next start; workers take turns from window ``first``, or from ``window``."""
        worker = get_worker_info()
        if worker is not None:
            first = window if first is None else first
            self._own = Start(epoch, window, first, worker.num_workers, worker.id)
            return
        self._changes += 1
        self._write(_Place(epoch, window, self._changes))

    def take(self) -> Start:
        """The start of the iteration that begins now; the next one starts at its epoch's start."""
        worker = get_worker_info()
        epoch, window, change = self._place_of_main()
        mark = 0
        if worker is not None:
            self._iterations += 1
            # Persistent workers keep their seed, so the mark contains a count too.
            iteration = (worker.seed - worker.id, worker.num_workers, self._iterations)
            mark = change << 32 | zlib.crc32(repr(iteration).encode())
        found = int(self._shared[3])
        if found >> 32 == change and found != mark:
            window = 0  # another iteration has used this place
        if worker is None:
            self.set(epoch, 0)
            return Start(epoch, window, window)
        if found >> 32 < change:
            self._shared[3] = mark
        own, self._own = self._own, None
        return own or Start(epoch, window, window, worker.num_workers, worker.id)

    @contextmanager
    def at_the_first_window(self) -> Iterator[None]:
        """Inside, iterations take the whole epoch; on exit the place is restored."""
        before = self._place
        self.set(before.epoch, 0)
        try:
            yield
        finally:
            self._write(before)

    def _place_of_main(self) -> _Place:
        if get_worker_info() is None or self._iterations == 0:
            return self._place
        return _Place(*self._shared[:3].tolist())

    def _write(self, place: _Place) -> None:
        if self._owner != os.getpid():  # a fork has its own workers
            self._share()
        self._place = place
        self._shared[:3] = torch.tensor(place, device="cpu")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._shared.is_shared():  # a copy has its own workers
            self._owner = os.getpid()
            self._shared = self._shared.clone().share_memory_()
