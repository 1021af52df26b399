"""A ``PackedSequence`` as a padded batch with lengths, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def unpack(packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
    """The padded batch of a checked packed sequence, rows in the caller's order.

    Returns:
        x (T, B, I), zero where a row has ended; lengths (B,) int64; and the position in (T * B) of
        every packed element.
    """
    data, batch_sizes, order, back = packed
    # The first step has all rows. int(batch_sizes[0]) would become a constant in a torch.jit.trace.
    all_rows = torch.arange(
        batch_sizes[0],  # type: ignore[call-overload]  # which torch takes, and traces
        device=batch_sizes.device,
    )
    T, B = batch_sizes.size(0), all_rows.size(0)
    # Step t holds the first batch_sizes[t] rows.
    present = all_rows < batch_sizes.unsqueeze(1)
    steps, rows = present.nonzero().unbind(1)
    if order is not None:
        rows = order.cpu()[rows]
    places = (steps * B + rows).to(data.device)
    # index_copy() would not do: autocast casts its operands, and it takes no mixed 16-bit types.
    x = data.new_zeros(T * B, data.size(1)).index_put((places,), data).view(T, B, -1)
    lengths = present.sum(0)
    if back is not None:
        lengths = lengths[back.cpu()]
    return x, lengths.to(x.device), places


def pack(y: Tensor, places: Tensor, like: PackedSequence) -> PackedSequence:
    """The valid elements of y (T, B, N), packed in the order of ``like``."""
    data = y.flatten(0, 1).index_select(0, places)
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)
