"""One layer in one direction on the compiled kernels, with its gradients.

The kernels do all of forward, and on the CPU all of backward. On CUDA they do the recurrence of
backward; the gradients of weights and input are library matrix products over all steps. There are
no atomics, so gradients have the same bits in every run.

A call has one of two entries. The regular entry (:func:`compiled_layer`) calls the operators
(``operators.py``) range by range (``ranges.py``). A small call on the CPU takes the fast path
(:func:`fastpath_stack`): torch's dispatcher and Python take longer than its kernels, so two C
functions go past them (``csrc/bindings/fastpath_layer.cpp``). The kernels, the bits and the graph
are those of the regular entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import cuda, operators, ranges
from .arguments import Call, Config
from .layer_stack import LayerWeights, accumulation_dtype
from .ranges import Inputs, Kept, Needs, OutputGrads
from .reference_layer import reference_layer
from .weight_gradients import Control, cast

Result = tuple[Tensor, Tensor, Tensor]  # y (T, B, P), h_n (1, B, P), c_n (1, B, H)
_NO_CONTROL = Control(None, None, None, False)


def takes_fastpath(call: Call, config: Config, training: bool) -> bool:
    """Whether a call may take the fast path. Its C functions check the tensors."""
    x, reset = call.x, call.reset
    return (
        x.is_cpu
        and x.dtype in operators.DTYPES
        and operators.fastpath_forward is not None
        and not is_compiling()
        and x.size(0) * x.size(1) <= ranges.RANGE_ROWS
        and call.lengths is None
        and not config.bidirectional
        and config.proj_size == 0
        and not (training and config.drops)
        and (reset is None or not reset.requires_grad)
        and operators.transform() is None
        and torch._C._get_tracing_state() is None  # a trace must see the operators
    )


def needs_graph(x: Tensor, weights: Sequence[Tensor | None], h0: Tensor, c0: Tensor) -> bool:
    """Whether a gradient may be wanted of any of these."""
    return torch.is_grad_enabled() and (
        (weights[0] is not None and weights[0].requires_grad)
        or any(t is not None and t.requires_grad for t in (x, *weights, h0, c0))
    )


def fastpath_stack(
    call: Call, weights: Sequence[Tensor], config: Config, in_graph: bool
) -> Result | None:
    """Runs the layers of a call that :func:`takes_fastpath`.

    Returns:
        As the regular entry; or None, without an effect, where a C function refuses a tensor.
    """
    assert operators.fastpath_forward is not None
    y, h0, c0, reset = call.x.contiguous(), call.h0, call.c0, call.reset
    control = _NO_CONTROL
    if reset is not None:
        reset = reset.contiguous()
        control = Control(reset, None, None, False)
    each, no_biases = (4, ()) if config.bias else (2, (None, None))
    h_n, c_n = [], []
    for k in range(config.num_layers):
        inputs = (y, *weights[k * each : (k + 1) * each], *no_biases)
        state = h0[k], c0[k]
        made = operators.fastpath_forward(*inputs, *state, reset, in_graph)
        if made is None:
            return None
        if in_graph:
            made = _LayerFunction.apply(  # type: ignore[no-untyped-call]
                made, *inputs, None, *state, control, "all"
            )
        y, h, c = made
        h_n.append(h)
        c_n.append(c)
    if len(h_n) == 1:  # torch.cat would copy
        return y, h_n[0], c_n[0]
    return y, torch.cat(h_n), torch.cat(c_n)


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
    in_graph: bool | None = None,
) -> Result:
    """One layer in one direction. Arguments and results: :class:`.layer_stack.Layer`.

    ``keep``: the activations that stay for backward (``ranges.py``). ``in_graph``: whether any
    layer of the call needs a graph; all layers then run the kernels of training. None: this layer
    alone decides.
    """
    if in_graph is None:
        in_graph = needs_graph(x, weights, h0, c0)
    h0, c0 = cast(h0, x.dtype), cast(c0, accumulation_dtype(x.dtype))
    # A program of the call gets the operator, which has gradients, too.
    if in_graph and not operators.recording():
        control = Control(reset, lengths, recurrent_mask, reverse)
        y, h_n, c_n = _LayerFunction.apply(  # type: ignore[no-untyped-call]
            None, x, *weights, h0, c0, control, keep
        )
    else:
        y, h_n, c_n, _, _ = operators.lstm_forward(
            x,
            *weights,
            h0,
            c0,
            reset,
            lengths,
            recurrent_mask,
            reverse,
            0,
            in_place=True,
            tf32=cuda.tf32_allowed(x),
        )
    # Outside the Function: its outputs could not be changed in place if they were views.
    return y, h_n.unsqueeze(0), c_n.unsqueeze(0)


class Saved(NamedTuple):
    """The tensors that a graph saves, in order.

    Then come those of :attr:`ranges.Kept.tensors` but for its first two, which are h0 and c0.
    """

    x: Tensor
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None
    h0: Tensor
    c0: Tensor
    reset: Tensor | None
    lengths: Tensor | None
    recurrent_mask: Tensor | None
    y: Tensor

    def inputs(self) -> Inputs:
        """x, the weights, h0 and c0."""
        weights = LayerWeights(self.w_ih, self.w_hh, self.b_ih, self.b_hh, self.w_hr)
        return self.x, weights, self.h0, self.c0


class _LayerFunction(torch.autograd.Function):
    """A layer in the graph: computes it, or records the fast path's results.

    h_n and c_n come without a first dimension, but with one from the fast path.
    """

    @staticmethod
    def forward(
        ctx: Any,
        made: tuple[Tensor, ...] | None,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        h0: Tensor,
        c0: Tensor,
        control: Control,
        keep: str,
    ) -> Result:
        if made is not None:
            y, h_n, c_n, gates, cells = made
            # As the regular entry keeps them: torch.utils.checkpoint may recompute on the other
            # one.
            kept = [cells, gates]
            ctx.ranges, ctx.tf32 = [(0, x.size(0))], False
        else:
            weights = LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr)
            ctx.tf32 = cuda.tf32_allowed(x)
            ctx.ranges = ranges.cut(x, weights, control.reverse, keep)
            y, h_n, c_n, kept = ranges.forward(
                x, weights, h0, c0, control, ctx.ranges, keep, ctx.tf32
            )
            del kept[:2]
        # In the order of Saved, which would take as long again to fill.
        ctx.save_for_backward(x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, *control[:3], y, *kept)
        ctx.reverse, ctx.keep, ctx.fastpath = control.reverse, keep, made is not None
        ctx.set_materialize_grads(False)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:9]
        if ctx.fastpath:
            found = None if torch.is_grad_enabled() else _fastpath_gradients(ctx, needs, grads)
            if found is not None:
                return (None, *found, None, None)
            y, *states = grads
            grads = (y, *(None if grad is None else grad.squeeze(0) for grad in states))
        return (None, *_gradients(ctx, needs, grads), None, None)


def _fastpath_gradients(
    ctx: Any, needs: Needs, grads: OutputGrads
) -> Sequence[Tensor | None] | None:
    """Gradients of x, the five weights, h0 and c0 past the dispatcher, or None."""
    if operators.fastpath_gradients is None:
        return None
    # The fields of Saved, then of Kept.tensors: a tuple is quicker to take apart than to name.
    x, w_ih, w_hh, b_ih, b_hh, _, h0, c0, reset, _, _, y, cells, gates = ctx.saved_tensors
    # A sum's gradient is one number for all elements; with batch_first it is transposed.
    grad_y, grad_h, grad_c = grads
    return operators.fastpath_gradients(
        None if grad_y is None else grad_y.contiguous(),
        None if grad_h is None else grad_h.contiguous(),
        None if grad_c is None else grad_c.contiguous(),
        x,
        w_ih,
        w_hh,
        b_ih,
        b_hh,
        h0,
        c0,
        reset,
        y,
        gates,
        cells,
        needs,
    )


def _gradients(ctx: Any, needs: Needs, grads: OutputGrads) -> Sequence[Tensor | None]:
    """Gradients of x, the five weights, h0 and c0, from those of y, h_n (B, P) and c_n (B, H)."""
    if all(grad is None for grad in grads):
        return (None,) * 8
    tensors = ctx.saved_tensors
    saved = Saved(*tensors[:12])
    control = Control(saved.reset, saved.lengths, saved.recurrent_mask, ctx.reverse)
    if torch.is_grad_enabled():  # create_graph=True: the gradients are differentiated again
        return _gradients_with_graph(saved.inputs(), control, needs, grads)
    kept = Kept(ctx.ranges, ctx.keep, saved.y, (saved.h0, saved.c0, *tensors[12:]))
    return ranges.backward(saved.inputs(), control, needs, kept, ctx.tf32, grads)


def _gradients_with_graph(
    inputs: Inputs, control: Control, needs: Needs, grads: OutputGrads
) -> list[Tensor | None]:
    """The same gradients as a differentiable function: the reference runs again."""
    flat = (inputs[0], *inputs[1], *inputs[2:])
    # Aliases, so that a tensor passed twice gets each of its gradients apart.
    aliases = [None if t is None else t.view_as(t) for t in flat]
    x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0 = aliases
    assert x is not None and w_ih is not None and w_hh is not None
    assert h0 is not None and c0 is not None
    y, h_n, c_n = reference_layer(x, LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr), h0, c0, *control)
    outputs = y, h_n.squeeze(0), c_n.squeeze(0)
    wanted = [t for t, need in zip(aliases, needs, strict=True) if need]
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
        for t, need in zip(aliases, needs, strict=True)
    ]


def _keep_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    reverse, save = inputs[11:13]
    y, _, _, gates, cells = output
    saved = Saved(*(*inputs[:11], y))
    ctx.save_for_backward(*saved, *[cells, gates][:save])
    ctx.reverse, ctx.ranges, ctx.keep = reverse, [(0, y.size(0))], ("state", "cells", "all")[save]
    ctx.tf32 = cuda.tf32_allowed(y)
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)


def _operator_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, ctx.needs_input_grad[:8], grads[:3]), *(None,) * 7)


# A program that torch.export or torch.jit.trace made calls the operator itself. It saves nothing,
# since most programs only run; where one is trained, backward runs forward again.
if operators.missing is None:
    torch.library.register_autograd(
        "stateful_lstm::lstm_forward", _operator_backward, setup_context=_keep_for_operator
    )
