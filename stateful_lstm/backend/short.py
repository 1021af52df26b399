"""The fast path of sequences: a few rows on the CPU, without what most calls do without.

Where a call is small, Python and torch take longer than its kernels. So a plain stack of layers
goes here from kernel to kernel past torch's dispatcher (``csrc/bindings/fastpath_layer.cpp``), in
training through one autograd function a layer. The kernels are those of the regular path
(``functional.py``), and so are the numbers, bit by bit; whatever is unusual takes that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import autograd, operators
from .arguments import Call, Config
from .layer_stack import LayerWeights
from .weight_gradients import Control

Result = tuple[Tensor, Tensor, Tensor]  # y (T, B, H), h_n (L, B, H), c_n (L, B, H)


def fits(call: Call, config: Config, training: bool) -> bool:
    """Whether a call may go this way."""
    x, reset = call.x, call.reset
    return (
        operators.fastpath_forward is not None
        and x.is_cpu
        and not is_compiling()
        and x.size(0) * x.size(1) <= autograd.RANGE_ROWS
        and call.lengths is None
        and not config.bidirectional
        and config.proj_size == 0
        and not (training and config.recurrent_dropout)
        and not (training and config.dropout and config.num_layers > 1)
        and (reset is None or not reset.requires_grad)
        and operators.transform() is None
        and torch._C._get_tracing_state() is None  # or a trace would hold what is done before
    )


def wants_gradients(call: Call, weights: Sequence[Tensor]) -> bool:
    """Whether backward may come: then it must be possible to keep all for it."""
    return torch.is_grad_enabled() and (
        weights[0].requires_grad
        or any(t.requires_grad for t in (call.x, *weights, call.h0, call.c0))
    )


def run(call: Call, weights: Sequence[Tensor], config: Config, graph: bool) -> Result | None:
    """All layers, one after the other; or None, without any effect, for the regular path."""
    assert operators.fastpath_forward is not None
    y, layers = call.x.contiguous(), config.num_layers  # with batch_first they lie otherwise
    reset = None if call.reset is None else call.reset.contiguous()
    each = 4 if config.bias else 2
    no_biases = () if config.bias else (None, None)
    h_n, c_n = [], []
    for k in range(layers):
        weights_of_layer = weights[k * each : (k + 1) * each]
        inputs = (y, *weights_of_layer, *no_biases, call.h0[k], call.c0[k], reset)
        made = operators.fastpath_forward(*inputs, graph)
        if made is None:
            return None
        if graph:
            made = _ShortFunction.apply(made, *inputs)  # type: ignore[no-untyped-call]
        y, h, c = made
        h_n.append(h)
        c_n.append(c)
    return (y, h_n[0], c_n[0]) if layers == 1 else (y, torch.cat(h_n), torch.cat(c_n))


class _ShortFunction(torch.autograd.Function):
    """Puts what :func:`operators.fastpath_forward` has made into the graph."""

    @staticmethod
    def forward(ctx: Any, made: tuple[Tensor, ...], *inputs: Tensor | None) -> Result:
        y, h_n, c_n, gates, cells = made
        *weights, h0, c0, reset = inputs
        # As the regular path saves it: recomputing (torch.utils.checkpoint) may take the other one.
        ctx.save_for_backward(*weights, None, h0, c0, reset, None, None, y, h0, c0, cells, gates)
        ctx.set_materialize_grads(False)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if operators.fastpath_gradients is not None and not torch.is_grad_enabled():
            # A sum's gradient is one number for all; that of batch_first lies otherwise.
            dense = [None if grad is None else grad.contiguous() for grad in grads]
            found = operators.fastpath_gradients(*dense, saved, ctx.needs_input_grad)
            if found is not None:
                return found
        return _long_backward(saved, ctx.needs_input_grad, grads)


def _long_backward(
    saved: tuple[Any, ...], needed: tuple[bool, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The same as the regular path has it."""
    if all(grad is None for grad in grads):
        return (None,) * 9
    x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, reset, lengths, mask, y, *inside = saved
    inputs = (x, LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr), h0, c0)
    control = Control(reset, lengths, mask, False)
    needs = (*needed[1:6], False, *needed[6:8])
    grads = (grads[0], *(None if grad is None else grad.squeeze(0) for grad in grads[1:]))
    if torch.is_grad_enabled():  # create_graph=True: someone will differentiate these again
        found = autograd.backward_with_graph(inputs, control, needs, grads)
    else:
        kept = autograd.Kept([(0, x.size(0))], "all", y, inside)
        found = autograd.backward(inputs, control, needs, kept, False, grads)
    *of_weights, _, of_h0, of_c0 = found
    return (None, *of_weights, of_h0, of_c0, None)
