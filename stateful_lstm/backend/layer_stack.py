"""Runs a stack of layers and directions, for every backend.

A backend has one function that runs one layer in one direction over a whole sequence
(:class:`Layer`). This file joins directions, draws the dropout masks in one fixed order, and gives
each direction its resets and lengths. So the reference and the compiled kernels draw the same
random numbers, and differ only in the arithmetic of a layer.

Letters as in the documentation: T steps, B rows, I input size, H hidden size, P size of h,
L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class LayerWeights(NamedTuple):
    """The weights of one layer in one direction, as in ``torch.nn.LSTM``."""

    w_ih: Tensor  # (4H, I)
    w_hh: Tensor  # (4H, P)
    b_ih: Tensor | None  # (4H)
    b_hh: Tensor | None  # (4H)
    w_hr: Tensor | None  # (P, H)


class Layer(Protocol):
    """One layer in one direction.

    ``x`` (T, B, I), ``h0`` (B, P), ``c0`` (B, H), ``reset`` (T, B) bool in the order of processing,
    ``lengths`` (B,) int64, ``recurrent_mask`` (B, P). Returns y (T, B, P), h_n (1, B, P) in the
    weights' dtype and c_n (1, B, H) in the dtype of sums (:func:`accumulation_dtype`).
    """

    def __call__(
        self,
        x: Tensor,
        weights: LayerWeights,
        h0: Tensor,
        c0: Tensor,
        reset: Tensor | None,
        lengths: Tensor | None,
        recurrent_mask: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the layer."""
        ...


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and of the cell state: float32 for the 16-bit types, else ``dtype``."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def split_weights(weights: Sequence[Tensor], bias: bool, projection: bool) -> list[LayerWeights]:
    """Cuts the flat list in ``nn.LSTM``'s parameter order into layers and directions."""
    each = 2 + 2 * bias + projection
    return [
        LayerWeights(
            weights[k],
            weights[k + 1],
            weights[k + 2] if bias else None,
            weights[k + 3] if bias else None,
            weights[k + each - 1] if projection else None,
        )
        for k in range(0, len(weights), each)
    ]


def run_stack(
    layer: Layer,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[LayerWeights],
    *,
    directions: int,
    dropout: float,
    recurrent_dropout: float,
    training: bool,
    reset: Tensor | None,
    lengths: Tensor | None,
    packed_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs all layers: x (T, B, I), h0 (L*D, B, P), c0 (L*D, B, H), everything time-major.

    ``packed_rows`` holds the positions in (T * B) of a packed sequence's data, in its order:
    dropout between layers then draws its mask over these rows alone, as ``nn.LSTM`` does.

    Returns:
        y (T, B, D*P), h_n (L*D, B, P), c_n (L*D, B, H).
    """
    if lengths is not None:  # padding may be NaN, and must not reach the results
        steps = torch.arange(x.size(0), device=x.device).unsqueeze(1)
        x = x.masked_fill((steps >= lengths).unsqueeze(2), 0)
    resets = (reset, _reversed_reset(reset, lengths) if directions == 2 else None)
    h_n, c_n = [], []
    for k in range(0, len(weights), directions):
        if k > 0 and dropout > 0 and training:
            x = _dropout(x, dropout, packed_rows)
        outputs = []
        for direction in range(directions):
            w = weights[k + direction]
            mask = None
            if recurrent_dropout > 0 and training:
                ones = w.w_hh.new_ones(x.size(1), w.w_hh.size(1))
                mask = F.dropout(ones, recurrent_dropout).detach()
            y, h, c = layer(
                x,
                w,
                h0[k + direction],
                c0[k + direction],
                resets[direction],
                lengths,
                mask,
                direction == 1,
            )
            outputs.append(y)
            h_n.append(h)
            c_n.append(c)
        x = outputs[0] if directions == 1 else torch.cat(outputs, 2)
    if len(weights) == 1:  # torch.cat would copy
        return x, h_n[0], c_n[0]
    return x, torch.cat(h_n), torch.cat(c_n)


def _reversed_reset(reset: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """The resets in the order of the reverse direction: one step earlier.

    A cut between t-1 and t comes before step t-1 there. A cut after a row's last valid step has no
    effect: the row starts there, from its initial state.
    """
    if reset is None:
        return None
    moved = torch.cat([reset[1:], torch.zeros_like(reset[:1])])
    if lengths is not None:
        steps = torch.arange(1, reset.size(0) + 1, device=reset.device).unsqueeze(1)
        moved = moved & (steps < lengths)
    return moved


def _dropout(x: Tensor, p: float, packed_rows: Tensor | None) -> Tensor:
    if packed_rows is None:
        return F.dropout(x, p)
    flat = x.flatten(0, 1)
    dropped = F.dropout(flat.index_select(0, packed_rows), p)
    return torch.zeros_like(flat).index_copy(0, packed_rows, dropped).view_as(x)
