"""Losses on their way from the device to the host, so that nobody has to wait for them."""

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
    """The losses of updates, in their order.

    On CUDA a loss is copied to page-locked memory behind the update, and looked at when it is
    there: by a later update or by whoever asks for it. At most ``ahead`` updates are under way.
    """

    def __init__(self, ahead: int = 4) -> None:
        self.last: float | None = None
        self.sum, self.count = 0.0, 0  # over the targets since the last begin()
        self._ahead = ahead
        self._pending: deque[_Pending] = deque()

    def add(self, update: int, loss_and_count: Tensor) -> None:
        """The mean loss of an update, and over how many targets: (2,), float64.

        Raises:
            FloatingPointError: if it, or an earlier one that has come in, is not finite.
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
        """Until all losses are here."""
        self._collect(0)

    def begin(self, sum: float = 0.0, count: int = 0) -> None:
        """Begins a new mean, or goes on with one."""
        self.sum, self.count = sum, count

    @property
    def mean(self) -> float:
        """Over all targets since :meth:`begin`; NaN without any."""
        return self.sum / self.count if self.count else math.nan

    def _collect(self, most: int) -> None:
        """Takes in what is there, and waits until at most so many are missing."""
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
