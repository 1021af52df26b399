"""``reference.lstm()``: a stack of layers in plain tensor maths, the specification of the kernels.

The equations and their sources are in ``backend/reference_layer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .backend import arguments
from .backend.layer_stack import run_stack, split_weights
from .backend.reference_layer import reference_layer as layer


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
