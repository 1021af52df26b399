"""Where windows come from: any iterable of them, with a position if it has one."""

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
    """The windows of an epoch, from wherever the epoch is to begin.

    What has ``state_dict`` and ``load_state_dict``, as :class:`ContinuousBatches` has, goes on by
    these. Anything else begins the epoch as it began before, with the random generators of that
    moment, and the windows that were seen are dropped; the last one of them must be the same.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self.windows = windows
        self.data: Any = windows.dataset if isinstance(windows, DataLoader) else windows
        self.has_position = hasattr(self.data, "load_state_dict")
        self.begun = False
        self.beginning: dict[str, Any] | None = None  # the generators when the epoch began
        self._epoch: int | None = getattr(self.data, "epoch", None)

    def begin(
        self,
        position: Mapping[str, Any],
        seen: int = 0,
        beginning: Mapping[str, Any] | None = None,
        last: int | None = None,
    ) -> Iterator[Window]:
        """An epoch from its beginning, or from a window's ``position`` on, the ``seen``-th one.

        Args:
            position: of the last window that was seen; empty: there is none.
            seen: how many windows to drop where there is no position to go on from.
            beginning: :attr:`beginning` of the epoch that is gone on with.
            last: :func:`fingerprint` of the last window that was seen.

        Raises:
            RuntimeError: that window comes out another one now, or only a position would do.
        """
        goes_on, before = self.has_position and bool(position), self._capture()
        if seen and not goes_on and beginning is None:
            raise RuntimeError(
                "training cannot go on in the middle of this epoch: the checkpoint has a position "
                "in its data, and these windows have none. Give it data with a load_state_dict, as "
                "ContinuousBatches has it"
            )
        if goes_on:
            self.data.load_state_dict(position)
        elif seen and beginning is not None:
            self._restore(beginning)
        self.beginning = None if goes_on else self._capture()
        self._epoch = getattr(self.data, "epoch", None)
        windows = iter(self.windows)
        if not goes_on and seen:
            dropped = None
            for _ in range(seen):
                dropped = next(windows, None)
            if dropped is None or (last is not None and fingerprint(dropped) != last):
                self._restore(before)
                raise RuntimeError(
                    f"training cannot go on in the middle of this epoch: its window {seen} is not "
                    "the one that it was. The windows need the same order in every run, or a "
                    "state_dict and a load_state_dict, as ContinuousBatches has them"
                )
        self.begun = True
        return windows

    def finish(self) -> None:
        """After the last window: the data goes on to the next epoch, if it did not by itself."""
        if self._epoch is not None and hasattr(self.data, "set_epoch"):
            self.data.set_epoch(self._epoch + 1)

    def position(self) -> dict[str, Any]:
        """Where the data is now, for the next :meth:`begin`."""
        return dict(self.data.state_dict()) if self.has_position else {}

    def rewind(self, position: Mapping[str, Any]) -> dict[str, Any]:
        """To the beginning of the epoch of this position."""
        if not self.has_position or not position:
            return {}
        start = {**position, "window": 0}
        self.data.load_state_dict(start)
        return start

    @contextmanager
    def aside(self) -> Iterator[Iterable[Window]]:
        """All windows of an epoch; afterwards the data is where it was before."""
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
        """Those of a loader and its samplers, beside the global ones."""
        found: list[torch.Generator] = []
        places = [self.windows, getattr(self.windows, "sampler", None)]
        places.append(getattr(getattr(self.windows, "batch_sampler", None), "sampler", None))
        for place in places:
            generator = getattr(place, "generator", None)
            if isinstance(generator, torch.Generator) and generator not in found:
                found.append(generator)
        return found

    def __len__(self) -> int:
        """Windows of an epoch; 0 if that is not known."""
        try:
            return len(self.windows)  # type: ignore[arg-type]
        except TypeError:
            return 0


def fingerprint(window: Window) -> int:
    """A number that tells a window's inputs from others'."""
    numbers = window.input.detach().cpu().contiguous().flatten()
    return zlib.crc32(numbers.view(torch.uint8).numpy().tobytes())
