"""``from_keras`` and ``to_keras``: an LSTM's weights, and a live layer's state.

Keras's gates i, f, c, o are PyTorch's i, f, g, o. Keras's kernels are transposed, and Keras has one
bias where PyTorch has two. Source: https://keras.io/api/layers/recurrent_layers/lstm/.
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
    """A ``StatefulLSTM`` with the weights of a Keras layer, or of a stack of Keras layers.

    I input size, H units. The argument may be:

    * arrays, as from ``layer.get_weights()``: kernel (I, 4H), recurrent kernel (H, 4H) and, unless
      ``use_bias=False``, bias (4H,); for a ``Bidirectional``, the arrays of the forward layer and
      then those of the backward layer. For a stack, pass a list per layer: one flat list of all
      arrays looks the same as a single layer;
    * a live ``keras.layers.LSTM``, ``Bidirectional(LSTM, merge_mode="concat")``, or ``RNN`` of
      ``LSTMCell``, alone or stacked;
    * for a stack, a list of the above, lowest first, or a ``keras.Sequential`` of only these. All
      layers must have the same units, directions and biases.

    A live layer must be built. It also gives ``stateful``, ``recurrent_dropout`` (Keras draws a
    mask for each gate, StatefulLSTM one for all), ``unit_forget_bias``, and its state if it is
    stateful and has run. ``implementation`` and ``unroll`` make no difference here, and neither
    does ``return_sequences``, because StatefulLSTM always returns every step and the final state:
    without it Keras returns ``h_n[-1]``, for two directions ``torch.cat([h_n[-2], h_n[-1]], -1)``.
    A mask that ends rows is ``lengths`` here. After a row's end the output is 0, as with Keras's
    ``zero_output_for_mask=True``; Keras's default repeats the last output. ``trainable``,
    regularizers and constraints are ignored.

    Keras's bias becomes ``bias_ih``, and ``bias_hh`` is zero. Training changes both; to train only
    one, as Keras does, call ``requires_grad_(False)`` on every ``bias_hh``.

    Source: https://keras.io/api/layers/recurrent_layers/lstm/.

    Args:
        weights_or_layer: arrays (numpy or similar) or live layers, see above.
        batch_first: True, as in Keras: input is (B, T, I).
        stateful: None: the live layers' value, True for arrays. A stateful live ``Bidirectional``
            needs True or False, because Keras also carries the state of the reverse direction.
        device: of parameters and state.
        dtype: of the parameters; None: the dtype of the arrays.

    Returns:
        The layer, in training mode like any new module.

    Warns:
        UserWarning: a live layer has ``dropout``, which drops its inputs; it is left out.

    Raises:
        TypeError: the argument is none of the above.
        ValueError: shapes do not fit, layers of a stack differ, or a layer has an option that
            StatefulLSTM lacks: activations other than tanh and sigmoid, ``go_backwards``, other
            merge modes, ``time_major``.

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
            f"dropout={options.dropout} is left out: in training Keras drops inputs of its layer "
            f"with one mask for all steps, and StatefulLSTM does not. In eval mode both are the "
            f"same",
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
        For each layer: kernel (I, 4H), or (D*H, 4H) above the first layer; recurrent kernel
        (H, 4H); and, if there are biases, their sum (4H,). With two directions, the arrays of the
        reverse direction follow, as in ``Bidirectional``. The arrays are copies, in the dtype of
        the parameters; bfloat16 becomes float32, because numpy lacks bfloat16.

    Raises:
        TypeError: the argument is not an LSTM.
        ValueError: the layer has ``proj_size``, which Keras's LSTM lacks.
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
    if array.dtype.name == "bfloat16":  # an extension type of numpy that torch does not accept
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array))
