"""The short way of training: a few rows on the CPU, without what most calls do without.

Where a call is small, Python and torch take longer than its kernels. So a plain stack of layers
goes here from operator to operator past torch's dispatcher (``csrc/python_training.cpp``), through
one autograd function a layer. The kernels are those of the long way (``functional.py``), and so are
the numbers, bit by bit; whatever is unusual takes that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import autograd, ops
from .checks import Call, Config
from .gradients import Control
from .stack import LayerWeights

Result = tuple[Tensor, Tensor, Tensor]  # y (T, B, H), h_n (L, B, H), c_n (L, B, H)


def fits(call: Call, weights: Sequence[Tensor], config: Config, training: bool) -> bool:
    """Whether a call may go this way, if all is kept for backward."""
    x, reset = call.x, call.reset
    return (
        ops.quick_forward is not None
        and torch.is_grad_enabled()
        and not is_compiling()
        and x.size(0) * x.size(1) <= autograd.RANGE_ROWS
        and call.lengths is None
        and not config.bidirectional
        and config.proj_size == 0
        and not (training and config.recurrent_dropout)
        and not (training and config.dropout and config.num_layers > 1)
        and (
            weights[0].requires_grad
            or any(t.requires_grad for t in (x, *weights, call.h0, call.c0))
        )
        and (reset is None or not reset.requires_grad)
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    )


def run(call: Call, weights: Sequence[Tensor], config: Config) -> Result | None:
    """All layers, one after the other; or None, without any effect, for the long way."""
    y, reset, bias = call.x, call.reset, config.bias
    each = 4 if bias else 2
    h_n, c_n = [], []
    for k in range(config.num_layers):
        w_ih, w_hh, *biases = weights[k * each : (k + 1) * each]
        b_ih, b_hh = biases if bias else (None, None)
        h0, c0 = call.h0, call.c0
        if config.num_layers > 1:
            h0, c0 = h0[k : k + 1], c0[k : k + 1]
        inputs = (y, w_ih, w_hh, b_ih, b_hh, h0, c0, reset)
        assert ops.quick_forward is not None
        made = ops.quick_forward(*inputs)
        if made is None:
            return None
        y, h, c = _ShortFunction.apply(made, *inputs)  # type: ignore[no-untyped-call]
        h_n.append(h)
        c_n.append(c)
    return (y, torch.cat(h_n), torch.cat(c_n)) if len(h_n) > 1 else (y, h_n[0], c_n[0])


class _ShortFunction(torch.autograd.Function):
    """Puts what :func:`ops.quick_forward` has made into the graph."""

    @staticmethod
    def forward(ctx: Any, made: tuple[Tensor, ...], *inputs: Tensor | None) -> Result:
        y, h_n, c_n, gates, cells = made
        ctx.save_for_backward(*inputs, y, gates, cells)
        ctx.set_materialize_grads(False)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if ops.quick_gradients is not None and not torch.is_grad_enabled():
            found = ops.quick_gradients(*grads, saved, ctx.needs_input_grad)
            if found is not None:
                return found
        return _long_backward(saved, ctx.needs_input_grad, grads)


def _long_backward(
    saved: tuple[Any, ...], needed: tuple[bool, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The same as the long way has it."""
    x, w_ih, w_hh, b_ih, b_hh, h0, c0, reset, y, gates, cells = saved
    if all(grad is None for grad in grads):
        return (None,) * 9
    inputs = (x, LayerWeights(w_ih, w_hh, b_ih, b_hh, None), h0.squeeze(0), c0.squeeze(0))
    needs = (*needed[1:6], False, *needed[6:8])
    grad_y, grad_h, grad_c = (
        grads[0],
        *(None if grad is None else grad.squeeze(0) for grad in grads[1:]),
    )
    control = Control(reset, None, None, False)
    if torch.is_grad_enabled():  # create_graph=True: someone will differentiate these again
        found = autograd.backward_with_graph(inputs, control, needs, (grad_y, grad_h, grad_c))
    else:
        kept = autograd.Kept([(0, x.size(0))], "all", y, [*inputs[2:], cells, gates])
        found = autograd.backward(inputs, control, needs, kept, False, (grad_y, grad_h, grad_c))
    *of_weights, _, of_h0, of_c0 = found
    of_state = (None if grad is None else grad.unsqueeze(0) for grad in (of_h0, of_c0))
    return (None, *of_weights, *of_state, None)
