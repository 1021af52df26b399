"""Copies losses from the device to the host, without a wait."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class _Pending(NamedTuple):
    update: int
    loss_and_count: Tensor  # (2,) float64 on the host; valid once `ready` has passed
    ready: torch.cuda.Event | None


class Losses:
    """The losses of updates, in order.

    On CUDA the stream copies a loss to page-locked memory after the update. A later update, or a
    call that asks for the loss, reads the copy. At most ``ahead`` updates are in flight.
    """

    def __init__(self, ahead: int = 4) -> None:
        self.last: float | None = None
        self.sum, self.count = 0.0, 0  # over the targets since the last begin()
        self._ahead = ahead
        self._pending: deque[_Pending] = deque()

    def add(self, update: int, loss_and_count: Tensor) -> None:
        """Adds the mean loss of an update and its number of targets: (2,), float64.

        Raises:
            FloatingPointError: this loss, or an earlier loss that has arrived, is not finite.
        """
        ready = None
        if loss_and_count.is_cuda:
            host = torch.empty(2, dtype=torch.float64, device="cpu", pin_memory=True)
            host.copy_(loss_and_count, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
            loss_and_count = host
        self._pending.append(_Pending(update, loss_and_count, ready))
        self._collect(self._ahead)

    def wait(self) -> None:
        """Waits until all losses have arrived."""
        self._collect(0)

    def begin(self, sum: float = 0.0, count: int = 0) -> None:
        """Begins a new mean, or continues one from its ``sum`` and ``count``."""
        self.sum, self.count = sum, count

    @property
    def mean(self) -> float:
        """The mean loss over all targets since :meth:`begin`; NaN without targets."""
        return self.sum / self.count if self.count else math.nan

    def _collect(self, most: int) -> None:
        """Reads the losses that have arrived, and waits until at most ``most`` are missing."""
        while self._pending:
            update, loss_and_count, ready = self._pending[0]
            if ready is not None and not ready.query():
                if len(self._pending) <= most:
                    return
                ready.synchronize()
            self._pending.popleft()
            loss, count = loss_and_count.tolist()
            if count == 0:  # a window of padding
                continue
            if not math.isfinite(loss):
                self._pending.clear()
                raise FloatingPointError(f"the loss of update {update} is {loss}")
            self.last = loss
            self.sum += loss * count
            self.count += int(count)
