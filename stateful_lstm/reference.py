"""The specification: the LSTM of this package in plain tensor maths.

Any device, any floating dtype, differentiable any number of times. The compiled kernels are held
against this file; this file is held against ``torch.nn.LSTM`` and a loop over single steps.

Source: Hochreiter & Schmidhuber, "Long short-term memory" (1997), with the forget gate of Gers,
Schmidhuber & Cummins (2000), the projection of Sak, Senior & Beaufays (2014) and the recurrent
dropout of Gal & Ghahramani (2016).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backend import arguments
from .backend.layer_stack import LayerWeights, accumulation_dtype, run_stack, split_weights


def layer(
    x: Tensor,
    weights: LayerWeights,
    h0: Tensor,
    c0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer in one direction. Arguments and results: :class:`.backend.layer_stack.Layer`.

    Sums and the cell are kept in :func:`~stateful_lstm.backend.layer_stack.accumulation_dtype`; h
    is rounded to the weights' dtype at every step.
    """
    dtype = weights.w_hh.dtype
    acc = accumulation_dtype(dtype)
    w_ih, w_hh, b_ih, b_hh, w_hr = (None if w is None else w.to(acc) for w in weights)
    assert w_ih is not None and w_hh is not None
    gates_x = x.to(acc) @ w_ih.T
    if b_ih is not None and b_hh is not None:
        gates_x = gates_x + (b_ih + b_hh)
    h, c = h0.to(dtype).to(acc), c0.to(acc)
    mask = None if recurrent_mask is None else recurrent_mask.to(acc)

    outputs: list[Tensor] = [h] * x.size(0)
    for t in reversed(range(x.size(0))) if reverse else range(x.size(0)):
        h_prev, c_prev = h, c
        if reset is not None:  # select: multiplying by zero would keep a NaN
            cut = reset[t].unsqueeze(1)
            h_prev, c_prev = h.masked_fill(cut, 0), c.masked_fill(cut, 0)
        h_in = h_prev if mask is None else h_prev * mask

        i, f, g, o = (gates_x[t] + h_in @ w_hh.T).chunk(4, 1)
        c_new = torch.sigmoid(f) * c_prev + torch.sigmoid(i) * torch.tanh(g)
        h_new = torch.sigmoid(o) * torch.tanh(c_new)
        if w_hr is not None:
            h_new = h_new @ w_hr.T
        h_new = h_new.to(dtype).to(acc)

        if lengths is None:
            h, c, outputs[t] = h_new, c_new, h_new
        else:
            live = (t < lengths).unsqueeze(1)
            h, c = torch.where(live, h_new, h), torch.where(live, c_new, c)
            outputs[t] = h_new.masked_fill(~live, 0)
    y = torch.stack(outputs) if outputs else h.new_zeros(0, *h.shape)
    return y.to(dtype), h.to(dtype), c


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    proj_size: int = 0,
    reset_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    recurrent_dropout: float = 0.0,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A stack of LSTM layers over a sequence, in plain tensor maths.

    The same arguments, results and errors as :func:`stateful_lstm.lstm`, without ``recompute`` and
    ``backend``.
    """
    config = arguments.Config(
        num_layers, bias, batch_first, dropout, bidirectional, proj_size, recurrent_dropout
    )
    call = arguments.prepare(input, hx, weights, config, reset_mask, lengths)
    y, h_n, c_n = run_stack(
        layer,
        call.x,
        call.h0,
        call.c0,
        split_weights(weights, bias, proj_size > 0),
        directions=config.directions,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        training=training,
        reset=call.reset,
        lengths=call.lengths,
    )
    return call.results(y, h_n, c_n)
