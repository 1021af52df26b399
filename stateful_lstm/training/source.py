"""Where windows come from: any iterable of them, with a position if it has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from ..data import Window


class Source:
    """The windows of an epoch, from wherever the epoch is to begin.

    What has ``state_dict`` and ``load_state_dict``, as :class:`ContinuousBatches` has, goes on by
    these; of anything else the windows that were seen before are taken once more, and dropped.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        if isinstance(windows, Iterator):
            raise TypeError("windows must be an iterable that can be run through more than once")
        self.windows = windows
        self.data: Any = windows.dataset if isinstance(windows, DataLoader) else windows
        self.has_position = hasattr(self.data, "load_state_dict")
        self._epoch: int | None = getattr(self.data, "epoch", None)

    def begin(self, position: Mapping[str, Any], seen: int) -> Iterator[Window]:
        """An epoch from its beginning, or from a window's ``position`` on, the ``seen``-th one."""
        if self.has_position and position:
            self.data.load_state_dict(position)
        self._epoch = getattr(self.data, "epoch", None)
        windows = iter(self.windows)
        return windows if self.has_position else islice(windows, seen, None)

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

    def __len__(self) -> int:
        """Windows of an epoch; 0 if that is not known."""
        try:
            return len(self.windows)  # type: ignore[arg-type]
        except TypeError:
            return 0
