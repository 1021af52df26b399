"""``ContinuousBatches``: sequences laid end to end in rows, and cut into windows.

    row 0   aaaaaaaa|aabbbbbb|bbbbbbbb        a, b, ...: the steps of one sequence
    row 1   cccddddd|dddddddd|deeee...        | ends a window, . is padding
              window 0  window 1  window 2

The next sequence always goes to the first free row, so that all rows end at about the same step.
The layout covers the rows of all ranks, and each rank makes its own rows: the windows of all ranks,
side by side, are those of one process with as many rows.
"""

from __future__ import annotations

import heapq
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .begin import Begin, Start
from .mapped import as_arrays, as_places
from .sequences import (
    Steps,
    as_tensor,
    check_length,
    check_like,
    check_sequences,
    whole_number,
    yes_or_no,
)
from .shared_out import refuse_sharing_out
from .window import Blank, Window

Sequences = Sequence[Steps] | Steps | Dataset[Steps]

# The extra keys of a worker's state: the window where the turns began, and the worker's number.
_TURNS = ("turns from window", "workers", "worker")


class _Piece(NamedTuple):
    """Steps [start, start + length) of a sequence, at step t of a window's row."""

    row: int
    t: int
    sequence: int
    start: int
    length: int


class ContinuousBatches(IterableDataset[Window]):
    """Windows of many sequences, where row i of window k + 1 continues row i of window k.

    After a sequence ends inside a window, the next sequence follows in the same row, with
    ``reset_mask`` True at its first step. Padding comes only at the end of an epoch, and every step
    of every sequence comes exactly once in an epoch. Arrays are read slice by slice, so that a
    memory-mapped array may be larger than memory; spawned workers map its file again.

    One ``iter()`` is one epoch; the next ``iter()`` has the next epoch's order. In a ``DataLoader``
    use ``batch_size=None``. Its workers make the windows in turn. They work on copies of the data,
    so call :meth:`set_epoch` before each epoch (``Trainer.fit`` does), and take a position from the
    window instead of :meth:`state_dict`. A loaded position holds for one iteration, with workers
    too, even if the iteration ends early. torchdata's ``StatefulDataLoader`` saves and loads the
    position of each worker.

    A warning reports rows without a sequence, and an epoch with more than half padding. The lengths
    of a dataset's items are unknown at first, so for a dataset only the rows count.

    Args:
        sequences: tensors or arrays (T_i, ...), all of one dtype, and of one shape except T_i; one
            array (N, T, ...) for N sequences; or a map-style dataset of such tensors or arrays. A
            series of one feature is (T_i, 1) for an LSTM: ``series.reshape(-1, 1)``.
        batch_size: B, rows of a window.
        window: T, steps of a window.
        targets: like ``sequences``, with the same T_i, in any dtype and shape; None: the target at
            t is the input at t + 1, and a sequence's last step has no target
            (``Window.target_mask``).
        shuffle: whether each epoch has another order of the sequences. The order of the steps in a
            sequence never changes.
        seed: of the order of the sequences, 0 or more.
        batch_first: whether B comes before T in the windows.
        rank: the rank's number, from 0. It makes rows rank * B to (rank + 1) * B of the joined
            batch.
        world_size: the number of ranks. All make the same number of windows.

    Raises:
        TypeError: an argument is not a collection of arrays (a DataFrame or a dict, say), or not a
            whole number.
        ValueError: a number is out of range, there is no sequence, a sequence is empty, or shapes,
            dtypes or lengths do not fit together. A dataset's items are checked when they are read.
        RuntimeError: from ``iter()``: accelerate would split the windows among processes.

    Example:
        >>> windows = ContinuousBatches([torch.randn(70, 3), torch.randn(60, 3)], 2, 16)
        >>> for w in windows:
        ...     output, _ = lstm(w.input, reset_mask=w.reset_mask, lengths=w.lengths)
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        window: int,
        targets: Sequences | None = None,
        shuffle: bool = False,
        seed: int = 0,
        batch_first: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        batch_size, window = whole_number(batch_size, "batch_size"), whole_number(window, "window")
        seed, rank = whole_number(seed, "seed"), whole_number(rank, "rank")
        world_size = whole_number(world_size, "world_size")
        shuffle = yes_or_no(shuffle, "shuffle")
        batch_first = yes_or_no(batch_first, "batch_first")
        for name, number in (
            ("batch_size", batch_size),
            ("window", window),
            ("world_size", world_size),
        ):
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, got {number}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be 0 to {world_size - 1}, got {rank}")
        check_sequences(sequences, "sequences")
        if targets is not None:
            check_sequences(targets, "targets")
        self._sequences, self._targets = cast(Any, sequences), cast(Any, targets)
        count = len(self._sequences)
        if count == 0:
            raise ValueError("expected at least one sequence, got none")
        if targets is not None and len(self._targets) != count:
            raise ValueError(f"got {count} sequences and {len(self._targets)} targets")
        self.batch_size, self.window, self.batch_first = batch_size, window, batch_first
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self._rows = batch_size * world_size  # of all ranks
        self._lengths: list[int | None] = [None] * count
        # One step of the first sequence, and its target: all others need the same shape and dtype.
        self._first: tuple[Tensor, Tensor] | None = None
        self._begin = Begin()
        self._position = Start(0, 0, 0)  # after the last window
        self._fingerprint = ""  # of all lengths; empty if they are unknown
        if not isinstance(sequences, Dataset):
            lengths = [self._read(k) for k in range(count)]
            self._fingerprint = f"{zlib.crc32(np.asarray(lengths, dtype='<i8').tobytes()):08x}"
        self._warn_of_padding()

    def _warn_of_padding(self) -> None:
        """Warns once, at the construction: rows without sequences are easy to overlook."""
        count, rows = len(self._lengths), self._rows
        padding = max(0.0, 1 - count / rows)  # a lower bound
        if self._fingerprint:
            steps = sum(cast(list[int], self._lengths))
            padding = 1 - steps / (len(self) * self.window * rows)
        if count < rows or padding > 0.5:
            some = "" if self._fingerprint else "at least "
            sequences = f"{count} sequence{'' if count == 1 else 's'}"
            warnings.warn(
                f"{some}{padding:.0%} of an epoch's steps are padding: {sequences} in {rows} "
                f"rows, in windows of {self.window} steps. Use fewer rows or a shorter window, or "
                "cut long series into more sequences",
                stacklevel=3,
            )

    def __repr__(self) -> str:
        """Sizes and settings, no tensors."""
        names = ("batch_size", "window", "shuffle", "seed", "batch_first", "rank", "world_size")
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"ContinuousBatches(sequences={len(self._lengths)}, {settings})"

    # ------------------------------------------------------------ iteration

    def __iter__(self) -> Iterator[Window]:
        refuse_sharing_out(self)
        if get_worker_info() is None:
            return self._whole_epoch()
        start = self._begin.take()  # now, not in the generator: the main process waits for it
        self._position = start
        return self._turns(start)

    def _whole_epoch(self) -> Iterator[Window]:
        start = self._position = self._begin.take()
        for made, is_last in self._windows(start):
            if is_last:
                # A loop may stop after len() windows: the last window ends the epoch.
                self._begin.set(start.epoch + 1, 0)
            yield made
        self._begin.set(start.epoch + 1, 0)
        self._position = Start(start.epoch + 1, 0, 0)

    def _turns(self, start: Start) -> Iterator[Window]:
        for made, _ in self._windows(start):
            yield made

    def _windows(self, start: Start) -> Iterator[tuple[Window, bool]]:
        """The windows that this process makes, and whether each is the epoch's last."""
        open_items: dict[int, tuple[Any, Any]] = {}
        plan = self._plan(start.epoch)
        k, coming = 0, next(plan, None)
        while coming is not None:
            pieces, coming = coming, next(plan, None)
            k += 1
            if start.makes(k - 1):
                made = self._make(pieces, open_items, self._describe(start.epoch, k))
                self._position = start._replace(window=k)
                yield made, coming is None
        self._position = start._replace(window=k)

    def __len__(self) -> int:
        """Windows in the next epoch; reads every item of a dataset once, for its length."""
        return self._count(self.epoch)

    def _count(self, epoch: int) -> int:
        """The number of windows of an epoch, from the step at which the last row ends."""
        ends = [0] * self._rows
        for k in self._order(epoch):
            heapq.heapreplace(ends, ends[0] + self._length(k))
        return -(-max(ends) // self.window)

    def _plan(self, epoch: int) -> Iterator[list[_Piece]]:
        """The pieces of each window of an epoch, for the rows of all ranks."""
        queue = iter(self._order(epoch))
        free = [(0, row) for row in range(self._rows)]  # a heap of (first free step, row)
        laid: list[tuple[int, int, int, int]] = []  # row, begin, end and number of a sequence
        begin, upcoming = 0, next(queue, None)
        while upcoming is not None or laid:
            end = begin + self.window
            while upcoming is not None and free[0][0] < end:
                at, row = free[0]
                until = at + self._length(upcoming)
                heapq.heapreplace(free, (until, row))
                laid.append((row, at, until, upcoming))
                upcoming = next(queue, None)
            yield [
                _Piece(
                    row,
                    max(at, begin) - begin,
                    sequence,
                    max(at, begin) - at,
                    min(until, end) - max(at, begin),
                )
                for row, at, until, sequence in laid
            ]
            laid = [sequence for sequence in laid if sequence[2] > end]
            begin = end

    def _order(self, epoch: int) -> list[int]:
        count = len(self._lengths)
        if not self.shuffle:
            return list(range(count))
        # torch's generator takes 32 bits: a hash of both keeps the epochs of two seeds apart.
        mixed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        random = torch.Generator("cpu").manual_seed(mixed)
        return torch.randperm(count, generator=random, device="cpu").tolist()

    def _make(
        self, pieces: list[_Piece], items: dict[int, tuple[Any, Any]], position: dict[str, Any]
    ) -> Window:
        """Reads the pieces of this rank's rows. ``items``: the sequences of the last window."""
        first = self.rank * self.batch_size
        pieces = [piece for piece in pieces if first <= piece.row < first + self.batch_size]
        last_items = items.copy()
        items.clear()
        blank = Blank(self.window, self.batch_size, *self._step(), self.batch_first)
        for row, t, sequence, start, length in pieces:
            end = start + length
            if sequence not in last_items:
                last_items[sequence] = self._item(sequence)
            x, y = items[sequence] = last_items[sequence]
            if y is None:
                steps = as_tensor(x[start : end + 1])
                blank.write(row - first, t, steps[:length], steps[1:], begins=start == 0)
            else:
                steps, targets = as_tensor(x[start:end]), as_tensor(y[start:end])
                blank.write(row - first, t, steps, targets, begins=start == 0)
        return blank.window(position)

    def _item(self, k: int) -> tuple[Any, Any]:
        """Sequence k and its targets, of the same length as at the first read.

        Raises:
            ValueError: the length has changed.
        """
        x, y = self._sequences[k], None if self._targets is None else self._targets[k]
        for name, steps in (("sequences", x), ("targets", y)):
            if steps is not None and len(steps) != self._length(k):
                raise ValueError(
                    f"{name}[{k}] has {len(steps)} steps now, it had {self._length(k)} before"
                )
        return x, y

    def _step(self) -> tuple[Tensor, Tensor]:
        """The first step of the first sequence, and its target, (1, ...)."""
        if self._first is None:
            self._read(0)
        assert self._first is not None
        return self._first

    def _length(self, k: int) -> int:
        known = self._lengths[k]
        return self._read(k) if known is None else known

    def _read(self, k: int) -> int:
        """Checks sequence k at its first read, and stores its length."""
        x = self._sequences[k]
        y = None if self._targets is None else self._targets[k]
        lengths = [check_length(x, f"sequences[{k}]")]
        step = target = as_tensor(x[:1])
        if y is not None:
            lengths.append(check_length(y, f"targets[{k}]"))
            target = as_tensor(y[:1])
        if len(set(lengths)) > 1:
            raise ValueError(f"targets[{k}] has {lengths[1]} steps, its sequence has {lengths[0]}")
        first = (step, target) if k == 0 else self._step()
        check_like(step, first[0], f"sequences[{k}]")
        check_like(target, first[1], f"targets[{k}]")
        self._first, self._lengths[k] = first, lengths[0]
        return lengths[0]

    # ------------------------------------------------------------ position

    @property
    def epoch(self) -> int:
        """The epoch of the next ``iter()``."""
        return self._begin.epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes the next ``iter()``, in workers too, begin this epoch.

        A loaded position inside the same epoch stays.

        Args:
            epoch: 0 or more.

        Raises:
            ValueError: the number is below 0.
        """
        epoch = whole_number(epoch, "epoch")
        if epoch < 0:
            raise ValueError(f"epoch must be 0 or more, got {epoch}")
        if epoch != self.epoch:
            self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last window of ``iter()``.

        In a ``DataLoader``'s worker it is the position of this worker: only the worker of the same
        number, among as many workers, can load it.

        Returns:
            Plain values: the epoch, the window in it, and a description of the data.
        """
        place = self._position
        state = self._describe(place.epoch, place.window)
        worker = get_worker_info()
        if worker is None:
            return state
        turns = (place.first, worker.num_workers, worker.id)
        return {**state, **dict(zip(_TURNS, turns, strict=True))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next ``iter()`` continue at this position.

        Args:
            state: a window's ``position``, or a result of :meth:`state_dict`. ``world_size`` may
                differ if all ranks together have as many rows as before.

        Raises:
            ValueError: the position belongs to other data, to windows of another size, or to
                another worker.
        """
        own = self._describe(0, 0)
        if not isinstance(state, Mapping) or set(state) not in (set(own), {*own, *_TURNS}):
            raise ValueError(f"expected a position with {sorted(own)}, got {state!r}")
        for name, value in own.items():
            if name not in ("epoch", "window") and state[name] != value:
                raise ValueError(f"this position is of {name} {state[name]}, the data's is {value}")
        _check_worker(state)
        epoch, window = _number(state, "epoch"), _number(state, "window")
        first = _number(state, _TURNS[0]) if _TURNS[0] in state else None
        if window > 0 and own["lengths"] and window > self._count(epoch):
            raise ValueError(f"this position is behind window {window}, and the data ends earlier")
        self._go_to(epoch, window, first)

    @contextmanager
    def from_the_beginning(self) -> Iterator[None]:
        """Inside, ``iter()`` takes the next epoch from its first window, in workers too.

        On exit the position is restored. An evaluation in the middle of an epoch uses this.
        """
        position = self._position
        try:
            with self._begin.at_the_first_window():
                yield
        finally:
            self._position = position

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        for name in ("_sequences", "_targets"):
            kept[name] = as_places(kept[name])
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in ("_sequences", "_targets"):
            state[name] = as_arrays(state[name])
        self.__dict__.update(state)

    def _describe(self, epoch: int, window: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "window": window,
            "sequences": len(self._lengths),
            "lengths": self._fingerprint,
            "rows of all ranks": self._rows,
            "steps of a window": self.window,
            "shuffle": self.shuffle,
            "seed": self.seed,
        }

    def _go_to(self, epoch: int, window: int, first: int | None = None) -> None:
        self._begin.set(epoch, window, first)
        self._position = Start(epoch, window, window if first is None else first)


def _number(state: Mapping[str, Any], name: str) -> int:
    try:
        number = index(state[name])
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(
            f"this position's {name} must be a whole number from 0 on, got {state[name]!r}"
        )
    return number


def _check_worker(state: Mapping[str, Any]) -> None:
    """Checks that a worker's position belongs to this worker, of as many workers.

    Raises:
        ValueError: it belongs to another worker.
    """
    if _TURNS[0] not in state:
        return
    worker = get_worker_info()
    _, workers, number = (state[name] for name in _TURNS)
    if worker is None or (worker.num_workers, worker.id) != (workers, number):
        here = "no worker" if worker is None else f"worker {worker.id} of {worker.num_workers}"
        raise ValueError(
            f"this position is of worker {number} of {workers}, this is {here}: continue with "
            f"num_workers={workers}, or load a window's position into the data instead"
        )
