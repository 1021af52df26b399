"""One layer on the compiled kernels, with its gradients.

The kernels do all of forward, and on the CPU all of backward. On CUDA they do the recurrence there;
what is parallel over time, the gradients of weights and input, are library matrix products. No
atomics anywhere, so gradients are bitwise repeatable.

A sequence that is trained on is worked on in ranges of steps, one after the other: what the kernels
make for a range is still in the cache when the products need it, and no array is so large that the
system would hand it out afresh, page by page, in every call. Kept for backward are h and c where
each range begins, and of its inside:

* "all": cells and activated gates, as they come;
* "cells": the cells. The gates follow from x and h in one product, which waits for no step; on the
  CPU two of the four need no product at all (``csrc/cpu/recompute_gates.h``);
* "state": nothing; the range, now shorter, is run again when backward reaches it.

On CUDA a sequence is one range, but for "state", and 16-bit numbers are multiplied as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from . import cuda, operators
from .layer_stack import LayerWeights, accumulation_dtype
from .weight_gradients import (
    Control,
    Forward,
    KernelGrads,
    LibraryGrads,
    cast,
    previous_factor,
    product,
)


def compiled_layer(
    x: Tensor,
    weights: LayerWeights,
    h0: Tensor,
    c0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
    *,
    keep: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer in one direction. Arguments and results: :class:`.layer_stack.Layer`."""
    h0, c0 = cast(h0, x.dtype), cast(c0, accumulation_dtype(x.dtype))
    control = Control(reset, lengths, recurrent_mask, reverse)
    wanted = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, *weights, h0, c0)
    )
    if (
        wanted and not operators.recording()
    ):  # a program gets the operator, which has gradients, too
        out: tuple[Tensor, Tensor, Tensor] = _LayerFunction.apply(  # type: ignore[no-untyped-call]
            x, *weights, h0, c0, *control, keep
        )
        return out
    y, h_n, c_n, _, _ = operators.lstm_forward(
        x, *weights, h0, c0, *control, 0, in_place=True, tf32=cuda.tf32_allowed(x)
    )
    return y, h_n, c_n


class _LayerFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        h0: Tensor,
        c0: Tensor,
        reset: Tensor | None,
        lengths: Tensor | None,
        recurrent_mask: Tensor | None,
        reverse: bool,
        keep: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr)
        control = Control(reset, lengths, recurrent_mask, reverse)
        ranges = _ranges(x, weights, reverse, keep)
        tf32 = cuda.tf32_allowed(x)
        y, h_n, c_n, saved = _forward(x, weights, h0, c0, control, ranges, keep, tf32)
        ctx.save_for_backward(x, *weights, h0, c0, reset, lengths, recurrent_mask, y, *saved)
        ctx.reverse, ctx.ranges, ctx.keep, ctx.tf32 = reverse, ranges, keep, tf32
        ctx.set_materialize_grads(False)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * 13
        saved = ctx.saved_tensors
        x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, reset, lengths, mask, y, *inside = saved
        inputs = (x, LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr), h0, c0)
        control = Control(reset, lengths, mask, ctx.reverse)
        if torch.is_grad_enabled():  # create_graph=True: someone will differentiate these again
            found = backward_with_graph(inputs, control, ctx.needs_input_grad, grads)
        else:
            kept = Kept(ctx.ranges, ctx.keep, y, inside)
            found = backward(inputs, control, ctx.needs_input_grad, kept, ctx.tf32, grads)
        return (*found, *(None,) * 5)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, reverse, save = inputs[:13]
    y, _, _, gates, cells = output
    inside = [cells, gates][:save]
    ctx.save_for_backward(*tensors, y, *tensors[6:8], *inside)
    ctx.reverse, ctx.ranges, ctx.keep = reverse, [(0, y.size(0))], ("state", "cells", "all")[save]
    ctx.tf32 = cuda.tf32_allowed(y)
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)


def _operator_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_LayerFunction.backward(ctx, *grads[:3]), None, None)


# A program that torch.export or torch.jit.trace made holds the operator alone. It keeps nothing,
# since mostly it is made to run; where it is trained, backward runs forward again.
if operators.missing is None:
    torch.library.register_autograd(
        "stateful_lstm::lstm_forward", _operator_backward, setup_context=_keep_for_backward
    )


# A range's gates take about so many bytes, and so many rows at least, or else packing the weights
# for each range would take a noticeable part of the time.
_RANGE_BYTES, RANGE_ROWS = 8 << 20, 1024

Range = tuple[int, int]  # steps [begin, end)
Inputs = tuple[Tensor, LayerWeights, Tensor, Tensor]  # x, weights, h0 and c0
Needs = tuple[bool, ...]  # which of x, the five weights, h0 and c0 want a gradient
OutputGrads = tuple[Tensor | None, ...]  # of y, h_n and c_n


class Kept(NamedTuple):
    """What forward left for backward."""

    ranges: list[Range]
    keep: str  # "all", "cells" or "state"
    y: Tensor
    saved: Sequence[Tensor]  # for each range h and c where it begins, and what `keep` says


def _ranges(x: Tensor, weights: LayerWeights, reverse: bool, keep: str) -> list[Range]:
    """Cuts the steps into about equal ranges, in the order of processing."""
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
    # Counted, not stepped through: torch.compile then knows their number, and T may still vary.
    ranges = [(k * size, min((k + 1) * size, T)) for k in range(count)]
    return ranges[::-1] if reverse else ranges


def _square_root(T: int) -> int:
    """Rounded down; counted under torch.compile, which cannot look into math.isqrt."""
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


def _forward(
    x: Tensor,
    weights: LayerWeights,
    h0: Tensor,
    c0: Tensor,
    control: Control,
    ranges: list[Range],
    keep: str,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Runs range after range: y, h_n, c_n, and for each range what :func:`_backward` needs."""
    save = {"state": 0, "cells": 1, "all": 2}[keep]
    whole = len(ranges) == 1
    y = None if whole else x.new_empty(x.size(0), x.size(1), weights.w_hh.size(1))
    h, c = h0, c0
    saved: list[Tensor] = []
    # Many small tensors that stay would each keep a hole of the size of a range's outputs from
    # being used again, and memory would grow by those of all ranges. So they lie in two large ones.
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
        saved += [h_begin, c_begin, *[cells, gates][:save]]
        if y is None:
            return part_y, h, c, saved
        y[begin:end] = part_y
    assert y is not None
    return y, h, c, saved


def backward(
    inputs: Inputs, control: Control, wanted: Needs, kept: Kept, tf32: bool, grads: OutputGrads
) -> list[Tensor | None]:
    """Gradients of x, the five weights, h0 and c0 on the kernels."""
    x, weights, h0, _ = inputs
    grad_y, grad_h, grad_c = grads
    ranges, keep, y, saved = kept
    sums = (LibraryGrads if cuda.on_gpu(x) else KernelGrads)(wanted, weights, tf32)
    whole, each = len(ranges) == 1, len(saved) // len(ranges)
    grad_x: Tensor | None = None

    for k in reversed(range(len(ranges))):
        begin, end = ranges[k]
        part = control if whole else _part(control, begin, end)
        part_x = x if whole else x[begin:end]
        h_begin, c_begin, *inside = saved[k * each : (k + 1) * each]
        part_y = y if whole else y[begin:end]
        if keep == "all":
            cells, gates = inside
        elif keep == "cells":
            (cells,) = inside
            if cuda.on_gpu(x):
                gates = _gates_anew(part_x, weights, part_y, h_begin, part)
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
        forward = Forward(part_x, part_y, h_begin, c_begin, gates, cells)
        part_grad, grad_h, grad_c = sums.add(part_grads, forward, part, k == 0)
        if wanted[0] and whole:
            grad_x = part_grad
        elif wanted[0]:
            if grad_x is None:  # made from a part, which stands for several where they are batched
                grad_x = part_grad.new_empty(x.shape)
            grad_x[begin:end] = part_grad
    assert grad_h is not None
    grad_h0 = cast(grad_h, h0.dtype) if wanted[6] else None
    return [grad_x, *sums.results(), grad_h0, grad_c]


def _gates_anew(
    x: Tensor, weights: LayerWeights, y: Tensor, h0: Tensor, control: Control
) -> Tensor:
    """The activated gates of all steps at once, by library products, from what went into them."""
    T, B, _ = x.shape
    h_prev = previous_factor(y, h0, control)
    acc, factor = accumulation_dtype(x.dtype), h_prev.dtype
    inputs, w_ih = cast(x, factor).flatten(0, 1), cast(weights.w_ih, factor).T
    hidden, w_hh = h_prev.flatten(0, 1), cast(weights.w_hh, factor).T
    bias = None
    if weights.b_ih is not None and weights.b_hh is not None:
        bias = cast(weights.b_ih, acc) + cast(weights.b_hh, acc)
    if factor == acc:  # each sum goes on from the last one: no passes over the gates between them
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


def backward_with_graph(
    inputs: Inputs, control: Control, needs: Needs, grads: OutputGrads
) -> list[Tensor | None]:
    """The same gradients as a differentiable function: the reference, run again."""
    flat = (inputs[0], *inputs[1], *inputs[2:])
    # Aliases, so that a tensor passed twice gets each of its gradients apart.
    aliases = [None if t is None else t.view_as(t) for t in flat]
    x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0 = aliases
    assert x is not None and w_ih is not None and w_hh is not None
    assert h0 is not None and c0 is not None
    outputs = reference.layer(
        x,
        LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr),
        h0,
        c0,
        *control,
    )
    wanted = [t for t, need in zip(aliases, needs, strict=False) if need]
    pairs = [
        (o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad
    ]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            [t for t in wanted if t is not None],
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [
        next(found) if need and t is not None else None
        for t, need in zip(aliases, needs, strict=False)
    ]
