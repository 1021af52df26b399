"""A layer on the compiled kernels, range of steps after range, forward and backward.

A training sequence is cut into ranges of steps, and the layer works on one range at a time. What
the kernels make for a range is then still in the cache when the products need it, and no array is
so large that the system maps fresh pages for it in every call. Each range keeps h and c from its
first step, and of its inside:

* "all": the cells and the activated gates;
* "cells": the cells. One product recomputes the gates from x and h, with no wait for any step; on
  the CPU two of the four gates need no product at all (``csrc/cpu/recompute_gates.h``);
* "state": nothing; backward runs the range, now shorter, again.

On CUDA a sequence is one range, except with "state", and 16-bit numbers are multiplied as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import cuda, operators
from .layer_stack import LayerWeights, accumulation_dtype
from .weight_gradients import (
    Control,
    KernelGrads,
    LibraryGrads,
    RangeForward,
    cast,
    previous_factor,
    product,
)

# A range's gates take about this many bytes. A range has at least this many rows (T * B), or
# packing the weights for each range would take a noticeable part of the time.
_RANGE_BYTES, RANGE_ROWS = 8 << 20, 1024

Range = tuple[int, int]  # steps [begin, end)
Inputs = tuple[Tensor, LayerWeights, Tensor, Tensor]  # x, weights, h0 and c0
Needs = tuple[bool, ...]  # which of x, the five weights, h0 and c0 want a gradient
OutputGrads = tuple[Tensor | None, ...]  # of y, h_n and c_n


class Kept(NamedTuple):
    """What a forward call keeps for backward."""

    ranges: list[Range]
    keep: str  # "all", "cells" or "state"
    y: Tensor
    tensors: Sequence[Tensor]  # of each range h and c at its first step, then what `keep` names


def cut(x: Tensor, weights: LayerWeights, reverse: bool, keep: str) -> list[Range]:
    """Ranges of about equal length, in the order of processing."""
    T, B = x.size(0), max(1, x.size(1))
    if keep == "state":
        count = _square_root(T)
    elif cuda.on_gpu(x):
        count = 1
    else:
        row_bytes = weights.w_hh.size(0) * accumulation_dtype(x.dtype).itemsize
        rows = max(RANGE_ROWS, _RANGE_BYTES // row_bytes)
        count = -(-T * B // rows)
    if count <= 1:
        return [(0, T)]
    size = -(-T // count)
    count = -(-T // size)
    # A counted list: torch.compile then knows its length, and T may still vary.
    ranges = [(k * size, min((k + 1) * size, T)) for k in range(count)]
    return ranges[::-1] if reverse else ranges


def _square_root(T: int) -> int:
    """Rounded down. torch.compile cannot trace math.isqrt, so there it is counted."""
    if not torch.compiler.is_compiling():
        return math.isqrt(T)
    root = 0
    while (root + 1) * (root + 1) <= T:
        root += 1
    return root


def _part(control: Control, begin: int, end: int) -> Control:
    """The control of steps [begin, end)."""
    reset, lengths, mask, reverse = control
    if reset is None and lengths is None:
        return control
    return Control(
        None if reset is None else reset[begin:end],
        None if lengths is None else (lengths - begin).clamp(0, end - begin),
        mask,
        reverse,
    )


def forward(
    x: Tensor,
    weights: LayerWeights,
    h0: Tensor,
    c0: Tensor,
    control: Control,
    ranges: list[Range],
    keep: str,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Runs range after range.

    Returns:
        y (T, B, P), h_n (B, P), c_n (B, H), and :attr:`Kept.tensors`.
    """
    save = {"state": 0, "cells": 1, "all": 2}[keep]
    whole = len(ranges) == 1
    y = None if whole else x.new_empty(x.size(0), x.size(1), weights.w_hh.size(1))
    h, c = h0, c0
    kept: list[Tensor] = []
    # h and c of all ranges lie in two large tensors. Many small ones that stay would split the
    # freed memory between them, and the outputs of the next range would not fit there.
    count = len(ranges)
    starts = () if whole else (h0.new_empty(count, *h0.shape), c0.new_empty(count, *c0.shape))
    for k, (begin, end) in enumerate(ranges):
        part = control if whole else _part(control, begin, end)
        part_x = x if whole else x[begin:end]
        h_begin, c_begin = h, c
        if starts:
            h_begin, c_begin = starts[0][k].copy_(h), starts[1][k].copy_(c)
        part_y, h, c, gates, cells = operators.lstm_forward(
            part_x, *weights, h, c, *part, save, tf32=tf32
        )
        kept += [h_begin, c_begin, *[cells, gates][:save]]
        if y is None:
            return part_y, h, c, kept
        y[begin:end] = part_y
    assert y is not None
    return y, h, c, kept


def backward(
    inputs: Inputs, control: Control, needs: Needs, kept: Kept, tf32: bool, grads: OutputGrads
) -> list[Tensor | None]:
    """Gradients of x, the five weights, h0 and c0 on the kernels."""
    x, weights, h0, _ = inputs
    grad_y, grad_h, grad_c = grads
    ranges, keep, y, tensors = kept
    sums = (LibraryGrads if cuda.on_gpu(x) else KernelGrads)(needs, weights, tf32)
    whole, each = len(ranges) == 1, len(tensors) // len(ranges)
    grad_x: Tensor | None = None

    for k in reversed(range(len(ranges))):
        begin, end = ranges[k]
        part = control if whole else _part(control, begin, end)
        part_x = x if whole else x[begin:end]
        h_begin, c_begin, *inside = tensors[k * each : (k + 1) * each]
        part_y = y if whole else y[begin:end]
        if keep == "all":
            cells, gates = inside
        elif keep == "cells":
            (cells,) = inside
            if cuda.on_gpu(x):
                gates = _recomputed_gates(part_x, weights, part_y, h_begin, part)
            else:
                given = (part_x, *weights, h_begin, c_begin, *part)
                gates = operators.lstm_gates(*given, part_y, cells)
        else:
            _, _, _, gates, cells = operators.lstm_forward(
                part_x, *weights, h_begin, c_begin, *part, 2, tf32=tf32
            )
        part_grads = (
            grad_y if grad_y is None or whole else grad_y[begin:end],
            None if grad_h is None else cast(grad_h, x.dtype),
            grad_c,
        )
        range_forward = RangeForward(part_x, part_y, h_begin, c_begin, gates, cells)
        part_grad, grad_h, grad_c = sums.add(part_grads, range_forward, part, k == 0)
        if needs[0] and whole:
            grad_x = part_grad
        elif needs[0]:
            if grad_x is None:  # new_empty of a part: it is batched where gradients are batched
                grad_x = part_grad.new_empty(x.shape)
            grad_x[begin:end] = part_grad
    assert grad_h is not None
    grad_h0 = cast(grad_h, h0.dtype) if needs[6] else None
    return [grad_x, *sums.results(), grad_h0, grad_c]


def _recomputed_gates(
    x: Tensor, weights: LayerWeights, y: Tensor, h0: Tensor, control: Control
) -> Tensor:
    """The activated gates of all steps at once, by library products of x and h."""
    T, B, _ = x.shape
    h_prev = previous_factor(y, h0, control)
    acc, factor = accumulation_dtype(x.dtype), h_prev.dtype
    inputs, w_ih = cast(x, factor).flatten(0, 1), cast(weights.w_ih, factor).T
    hidden, w_hh = h_prev.flatten(0, 1), cast(weights.w_hh, factor).T
    bias = None
    if weights.b_ih is not None and weights.b_hh is not None:
        bias = cast(weights.b_ih, acc) + cast(weights.b_hh, acc)
    if factor == acc:  # one sum for all products: no pass over the gates between them
        gates = inputs @ w_ih if bias is None else torch.addmm(bias, inputs, w_ih)
        gates.addmm_(hidden, w_hh)
    else:
        gates = product(inputs, w_ih) + product(hidden, w_hh)
        gates = gates if bias is None else gates + bias
    gates = gates.view(T, B, -1)
    i_f, g, o = gates.split([gates.size(2) // 2, gates.size(2) // 4, gates.size(2) // 4], 2)
    i_f.sigmoid_()
    g.tanh_()
    o.sigmoid_()
    return gates.to(x.dtype)
