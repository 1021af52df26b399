"""The specification of a layer: the LSTM's equations in plain tensor maths.

Any device, any floating dtype, differentiable any number of times. Tests hold the compiled kernels
against this file, and this file against ``torch.nn.LSTM`` and a loop over single steps.

Source: Hochreiter & Schmidhuber, "Long short-term memory" (1997), with the forget gate of Gers,
Schmidhuber & Cummins (2000), the projection of Sak, Senior & Beaufays (2014) and the recurrent
dropout of Gal & Ghahramani (2016).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layer_stack import LayerWeights, accumulation_dtype


def reference_layer(
    x: Tensor,
    weights: LayerWeights,
    h0: Tensor,
    c0: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer in one direction. Arguments and results: :class:`.layer_stack.Layer`.

    Sums and the cell have the dtype of :func:`.layer_stack.accumulation_dtype`; h is rounded to the
    weights' dtype at every step.
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
    return y.to(dtype), h.to(dtype).unsqueeze(0), c.unsqueeze(0)
