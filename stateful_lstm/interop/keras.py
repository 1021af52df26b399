"""``from_keras`` and ``to_keras``: an LSTM's weights, and a live layer's state.

Gates are i, f, c, o in Keras, which are PyTorch's i, f, g, o. Kernels are transposed, and there is
one bias where PyTorch has two. Source: https://keras.io/api/layers/recurrent_layers/lstm/.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..module import StatefulLSTM
from .keras_layers import Array, check_alike, join_options, read
from .weights import read_weights


def from_keras(
    weights_or_layer: Any,
    *,
    batch_first: bool = True,
    stateful: bool | None = None,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
) -> StatefulLSTM:
    """A ``StatefulLSTM`` that computes what Keras's layer does, or a stack of its layers.

    I input size, H units. What may be given:

    * arrays, as ``layer.get_weights()`` returns them: kernel (I, 4H), recurrent kernel (H, 4H) and,
      unless ``use_bias=False``, bias (4H,); of a ``Bidirectional`` those of the forward layer and
      then those of the backward one. Arrays of a whole stack in one list are not told from these:
      make it a list for each layer;
    * a live ``keras.layers.LSTM``, ``Bidirectional(LSTM, merge_mode="concat")``, or ``RNN`` of
      ``LSTMCell``, alone or stacked;
    * for a stack, a list of the above, lowest first, or a ``keras.Sequential`` of nothing else. All
      layers must be alike: units, directions, biases.

    From a live layer come also ``stateful``, ``recurrent_dropout`` (Keras draws a mask for each
    gate, StatefulLSTM one for all), ``unit_forget_bias``, and if it is stateful and has run, its
    state. It needs weights: it must have been built. What makes no difference here:
    ``implementation``, ``unroll``, and ``return_sequences``, since every step and the final state
    are returned always: without it Keras returns ``h_n[-1]``, of two directions
    ``torch.cat([h_n[-2], h_n[-1]], -1)``. A mask that ends rows is ``lengths`` here, and after a
    row's end the output is 0, as with Keras's ``zero_output_for_mask=True``; its default repeats
    the last one. What is left out: ``trainable``, regularizers, constraints.

    Keras's bias becomes ``bias_ih``, and ``bias_hh`` is zero. Both are trained: to train one, as
    Keras does, call ``requires_grad_(False)`` on every ``bias_hh``.

    Args:
        weights_or_layer: arrays (numpy or alike) or live layers, see above.
        batch_first: True, as Keras has it: input is (B, T, I).
        stateful: None: as the live layers are, True for arrays. A live ``Bidirectional`` that is
            stateful needs it said, for Keras carries on the state of the reverse direction too.
        device: of parameters and state.
        dtype: of the parameters; None: that of the arrays.

    Returns:
        The layer, in training mode as any new module.

    Warns:
        UserWarning: for a live layer with ``dropout``, which drops its inputs: that is left out.

    Raises:
        TypeError: for anything else than the above.
        ValueError: for shapes that do not fit, for layers of a stack that are not alike, and for
            what StatefulLSTM has not: other activations than tanh and sigmoid, ``go_backwards``,
            other merge modes, ``time_major``.

    Example:
        >>> kernel, recurrent, bias = np.ones((8, 64)), np.ones((16, 64)), np.zeros(64)
        >>> lstm = from_keras([kernel, recurrent, bias])
        >>> lstm.input_size, lstm.hidden_size
        (8, 16)
    """
    layers = read(weights_or_layer)
    I, H, bias, found = check_alike(layers)  # noqa: E741
    options = join_options(layers, stateful)
    if options.dropout:
        warnings.warn(
            f"dropout={options.dropout} is left out: in training Keras drops inputs of its layer, "
            f"at all steps alike, which StatefulLSTM does not. In evaluation both are the same",
            UserWarning,
            stacklevel=2,
        )
    lstm = StatefulLSTM(
        I,
        H,
        len(layers),
        bias=bias,
        batch_first=batch_first,
        bidirectional=len(layers[0].directions) == 2,
        device=device,
        dtype=dtype or found,
        stateful=options.stateful,
        recurrent_dropout=options.recurrent_dropout,
        unit_forget_bias=options.unit_forget_bias and bias,
    )
    own = dict(lstm.named_parameters())
    with torch.no_grad():
        for k, layer in enumerate(layers):
            for arrays, suffix in zip(layer.directions, ("", "_reverse"), strict=False):
                own[f"weight_ih_l{k}{suffix}"].copy_(_tensor(arrays[0]).T)
                own[f"weight_hh_l{k}{suffix}"].copy_(_tensor(arrays[1]).T)
                if bias:
                    own[f"bias_ih_l{k}{suffix}"].copy_(_tensor(arrays[2]))
                    own[f"bias_hh_l{k}{suffix}"].zero_()
    states = [hc for layer in layers for hc in layer.states or ()]
    if options.stateful and len(states) == len(layers) * len(layers[0].directions):
        h, c = (torch.stack([_tensor(one) for one in kind]) for kind in zip(*states, strict=True))
        lstm.allocate_state(h.size(1)).write((h, c))
    return lstm


def to_keras(lstm: nn.RNNBase) -> list[list[Array]]:
    """The weights of each layer, ready for the ``set_weights`` of a Keras layer.

    I input size, H hidden size, D directions.

    Args:
        lstm: a ``StatefulLSTM`` or an ``nn.LSTM``, on any device.

    Returns:
        For each layer kernel (I, 4H), or (D*H, 4H) above the first; recurrent kernel (H, 4H); and
        if there are biases their sum (4H,). With two directions the same follows for the reverse
        one, as ``Bidirectional`` has it. In the dtype of the parameters, float32 for bfloat16,
        which numpy has not. They are copies.

    Raises:
        TypeError: for anything but an LSTM.
        ValueError: for ``proj_size``, which Keras's LSTM has not.
    """

    def array(tensor: Tensor) -> Array:
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        copy: Array = tensor.cpu().clone(memory_format=torch.contiguous_format).numpy()
        return copy

    found = []
    for layer in read_weights(lstm, "Keras's LSTM"):
        arrays = []
        for one in layer:
            arrays += [array(one.w_ih.T), array(one.w_hh.T)]
            if one.b_ih is not None and one.b_hh is not None:
                arrays.append(array(one.b_ih) + array(one.b_hh))
        found.append(arrays)
    return found


def _tensor(array: Array) -> Tensor:
    if array.dtype.name == "bfloat16":  # numpy has it from elsewhere, torch does not know that one
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array))
