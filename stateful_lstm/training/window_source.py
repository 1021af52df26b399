"""The source of windows: any iterable of windows, with or without a position."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..data import ContinuousBatches, Window
from . import rng


class Source:
    """The windows of an epoch, from its beginning or from a position.

    Data with ``state_dict`` and ``load_state_dict``, like :class:`ContinuousBatches`, continues at
    its position. Other data begins the epoch again, with the random generators restored, and drops
    the windows that were seen; the last dropped window must be the same as before.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self.windows = windows
        self.data: Any = windows.dataset if isinstance(windows, DataLoader) else windows
        self.has_position = hasattr(self.data, "load_state_dict")
        self.begun = False
        self.beginning: dict[str, Any] | None = None  # random generators at the epoch's start
        self._epoch: int | None = getattr(self.data, "epoch", None)

    def begin(
        self,
        position: Mapping[str, Any],
        seen: int = 0,
        beginning: Mapping[str, Any] | None = None,
        last: int | None = None,
    ) -> Iterator[Window]:
        """Begins an epoch, or continues it after its first ``seen`` windows.

        Args:
            position: of the last window that was seen; empty: there is no position.
            seen: the number of windows to drop from data without a position.
            beginning: :attr:`beginning` of the epoch to continue.
            last: :func:`fingerprint` of the last window that was seen.

        Raises:
            RuntimeError: the last dropped window is not the same as before, or the epoch can only
                continue at a position.
        """
        continues, before = self.has_position and bool(position), self._capture()
        if seen and not continues and beginning is None:
            raise RuntimeError(
                "training cannot continue in the middle of this epoch: the checkpoint has a "
                "position in its data, and these windows have none. Give it data with a "
                "load_state_dict, like ContinuousBatches"
            )
        if continues:
            self.data.load_state_dict(position)
        elif seen and beginning is not None:
            self._restore(beginning)
        self.beginning = None if continues else self._capture()
        self._epoch = getattr(self.data, "epoch", None)
        windows = iter(self.windows)
        if not continues and seen:
            dropped = None
            for _ in range(seen):
                dropped = next(windows, None)
            if dropped is None or (last is not None and fingerprint(dropped) != last):
                self._restore(before)
                raise RuntimeError(
                    f"training cannot continue in the middle of this epoch: its window {seen} is "
                    "not the same as before. The windows need the same order in every run, or a "
                    "state_dict and a load_state_dict, like ContinuousBatches"
                )
        self.begun = True
        return windows

    def finish(self) -> None:
        """After the last window: moves the data to the next epoch, if it has not moved already."""
        if self._epoch is not None and hasattr(self.data, "set_epoch"):
            self.data.set_epoch(self._epoch + 1)

    def position(self) -> dict[str, Any]:
        """The data's position now, for the next :meth:`begin`."""
        return dict(self.data.state_dict()) if self.has_position else {}

    def rewind(self, position: Mapping[str, Any]) -> dict[str, Any]:
        """Moves the data to the beginning of this position's epoch; returns the new position."""
        if not self.has_position or not position:
            return {}
        start = {**position, "window": 0}
        self.data.load_state_dict(start)
        return start

    @contextmanager
    def aside(self) -> Iterator[Iterable[Window]]:
        """Yields all windows of an epoch; on exit the data is at its position of entry."""
        generators = self._generators()
        states = [generator.get_state() for generator in generators]
        try:
            with self._data_aside():
                yield self.windows
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

    @contextmanager
    def _data_aside(self) -> Iterator[None]:
        if isinstance(self.data, ContinuousBatches):
            with self.data.from_the_beginning():
                yield
            return
        position = self.position()
        try:
            yield
        finally:
            if self.has_position:
                self.data.load_state_dict(position)

    def _capture(self) -> dict[str, Any]:
        return {**rng.capture(), "others": [g.get_state() for g in self._generators()]}

    def _restore(self, states: Mapping[str, Any]) -> None:
        rng.restore(states)
        for generator, state in zip(self._generators(), states["others"], strict=False):
            generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        """The generators of a loader and its samplers, without the global generators."""
        found: list[torch.Generator] = []
        places = [self.windows, getattr(self.windows, "sampler", None)]
        places.append(getattr(getattr(self.windows, "batch_sampler", None), "sampler", None))
        for place in places:
            generator = getattr(place, "generator", None)
            if isinstance(generator, torch.Generator) and generator not in found:
                found.append(generator)
        return found

    def __len__(self) -> int:
        """The number of windows in an epoch; 0 if it is unknown."""
        try:
            return len(self.windows)  # type: ignore[arg-type]
        except TypeError:
            return 0


def fingerprint(window: Window) -> int:
    """A checksum of a window's inputs."""
    numbers = window.input.detach().cpu().contiguous().flatten()
    return zlib.crc32(numbers.view(torch.uint8).numpy().tobytes())
