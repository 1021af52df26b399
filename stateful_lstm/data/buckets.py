"""``bucket_by_length``: batches of whole sequences of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backend.arguments import described
from .sequences import as_tensor, whole_number, yes_or_no


def bucket_by_length(
    lengths: Sequence[int] | NDArray[Any] | Tensor,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
) -> list[list[int]]:
    """Groups sequences of similar length into batches with little padding.

    Sequences are sorted by length and cut into batches, the shortest first. Only the batch of the
    longest sequences may be smaller, and no other partition into such batches has less padding.
    Every sequence is in one batch. A ``DataLoader`` takes the result as ``batch_sampler``;
    :meth:`Window.pad` makes a window from a batch.

    Args:
        lengths: (N,), the lengths of all sequences, each 1 or more; a list, an array or a tensor.
        batch_size: sequences in a batch; the batch of the longest sequences may have fewer.
        shuffle: whether to put the batches, and sequences of the same length, in random order.
        seed: of the random order; use another seed for each epoch.
        drop_last: whether to leave out the smaller batch.

    Returns:
        Lists of indices into ``lengths``.

    Raises:
        ValueError: the batch size or a length is below 1, or the lengths are not (N,).
        TypeError: the lengths are not whole numbers.
    """
    batch_size, seed = whole_number(batch_size, "batch_size"), whole_number(seed, "seed")
    shuffle, drop_last = yes_or_no(shuffle, "shuffle"), yes_or_no(drop_last, "drop_last")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    sizes = _whole_numbers(lengths)
    short = (sizes < 1).nonzero()
    if len(short):
        k = int(short[0])
        raise ValueError(f"lengths[{k}] is {int(sizes[k])}, expected 1 or more")
    random = torch.Generator("cpu").manual_seed(seed)
    order = torch.arange(len(sizes), device="cpu")
    if shuffle:
        order = torch.randperm(len(sizes), generator=random, device="cpu")
    order = order[torch.argsort(sizes[order], stable=True)]
    batches = [batch.tolist() for batch in order.split(batch_size)] if len(order) else []
    if drop_last and batches and len(batches[-1]) < batch_size:
        batches.pop()
    if shuffle:
        turns = torch.randperm(len(batches), generator=random, device="cpu")
        batches = [batches[k] for k in turns.tolist()]
    return batches


def _whole_numbers(lengths: Any) -> Tensor:
    """Lengths as int64 (N,), on the CPU whatever the default device is."""
    expected = "lengths must be whole numbers"
    try:
        if not isinstance(lengths, list | tuple | Tensor):
            lengths = as_tensor(np.asarray(lengths))
        given = torch.as_tensor(lengths, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{expected}, like [len(s) for s in sequences]; got {described(lengths)}"
        ) from None
    if given.dim() != 1:
        raise ValueError(f"{expected}, (N,), got shape {tuple(given.shape)}")
    if len(given) and (
        given.dtype == torch.bool or given.dtype.is_floating_point or given.is_complex()
    ):
        raise TypeError(f"{expected}, got {given.dtype}")
    return given.to(torch.int64)
