"""``bucket_by_length``: whole sequences, batched with those of about their length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bucket_by_length(
    lengths: Sequence[int] | Tensor,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
) -> list[list[int]]:
    """Batches of sequences of similar length, so that little is padded.

    Sequences are sorted by length and cut into batches, from the shortest one on. With all batches
    full but that of the longest, no other way pads less. Every sequence is in one batch. The result
    is what a ``DataLoader`` takes as ``batch_sampler``; :meth:`Window.pad` makes a batch into a
    window.

    Args:
        lengths: of all sequences, each 1 or more.
        batch_size: sequences in a batch; the longest ones' batch may have fewer.
        shuffle: puts the batches, and sequences of the same length, in random order.
        seed: of the order; another one for each epoch.
        drop_last: leaves out the batch that has fewer.

    Returns:
        Lists of indices into ``lengths``.

    Raises:
        ValueError: for a batch size or a length below 1.
        TypeError: for lengths that are no whole numbers.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    given = torch.as_tensor(lengths)
    if len(given) and (given.is_floating_point() or given.is_complex()):
        raise TypeError(f"lengths must be whole numbers, got {given.dtype}")
    sizes = given.to(torch.int64).reshape(-1)
    short = (sizes < 1).nonzero()
    if len(short):
        k = int(short[0])
        raise ValueError(f"lengths[{k}] is {int(sizes[k])}, expected 1 or more")
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sizes), generator=random) if shuffle else torch.arange(len(sizes))
    order = order[torch.argsort(sizes[order], stable=True)]
    batches = [batch.tolist() for batch in order.split(batch_size)] if len(order) else []
    if drop_last and batches and len(batches[-1]) < batch_size:
        batches.pop()
    if shuffle:
        batches = [batches[k] for k in torch.randperm(len(batches), generator=random).tolist()]
    return batches
