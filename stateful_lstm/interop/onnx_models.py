"""``onnx_translations``: lets ``torch.onnx.export`` translate a model with StatefulLSTM layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..backend import operators

INT32 = 6  # in ONNX's list of types


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export(..., custom_translation_table=onnx_translations())``.

    It exports a model with ``StatefulLSTM(..., stateful=False)`` inside, as one standard ``LSTM``
    node per layer and direction. T and B are free where ``dynamic_shapes`` says so. The states are
    inputs and outputs of the ONNX model if the model takes ``hx`` and returns ``(h_n, c_n)``.

    ``lengths`` are exported. ONNX's LSTM has no ``reset_mask``, ``proj_size`` or recurrent dropout
    in training, so they raise an error. float16 models are exported with LSTM layers in float32;
    bfloat16 models raise an error. A resident state raises an error too: set ``stateful = False``
    in the layers first.

    Returns:
        The translation of the operator that computes one direction of one layer.

    Raises:
        ImportError: the package ``onnxscript`` is not installed; ``torch.onnx.export`` needs it
            too.
        RuntimeError: the compiled library is missing.

    Example:
        >>> program = torch.onnx.export(
        ...     model, (x, h_0, c_0), "model.onnx", dynamo=True, verbose=False,
        ...     dynamic_shapes=({0: "time", 1: "batch"}, {1: "batch"}, {1: "batch"}),
        ...     custom_translation_table=onnx_translations(),
        ... )
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("onnx_translations needs onnxscript: pip install onnxscript") from error
    if operators.missing:
        raise RuntimeError(f"onnx_translations needs the compiled operators: {operators.missing}")
    return {torch.ops.stateful_lstm.lstm_forward.default: _lstm}


def _lstm(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    weight_hr: Any,
    h0: Any,
    c0: Any,
    reset_mask: Any,
    lengths: Any,
    recurrent_mask: Any,
    reverse: bool,
    save: int,
    in_place: bool = False,
    tf32: bool = False,
) -> tuple[Any, ...]:
    """Translates one direction of one layer: see ``operators.lstm_forward``."""
    from onnxscript import opset18 as op

    for feature, given in (
        ("reset_mask", reset_mask),
        ("projection (proj_size)", weight_hr),
        ("dropout: call eval() on the model first", recurrent_mask),
    ):
        if given is not None:
            raise ValueError(f"ONNX's LSTM has no {feature}")
    if x.dtype != c0.dtype:  # our c is float32 for 16-bit inputs, ONNX's LSTM has a single dtype
        raise ValueError(f"a model in {x.dtype} cannot be exported: export it in float32")

    def gates(weight: Any, *sizes: int) -> Any:
        """(4H, ...) to (1, 4H, ...), from i, f, g, o to i, o, f, g."""
        apart = op.Reshape(weight, op.Constant(value_ints=[4, -1, *sizes]))
        turned = op.Gather(apart, op.Constant(value_ints=[0, 3, 1, 2]), axis=0)
        return op.Reshape(turned, op.Constant(value_ints=[1, 4 * H, *sizes]))

    H, I = weight_hh.shape[1], weight_ih.shape[1]  # noqa: E741
    biases = None
    if bias_ih is not None:
        biases = op.Concat(gates(bias_ih), gates(bias_hh), axis=1)
    directions, steps = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    y, h_n, c_n = op.LSTM(
        x,
        gates(weight_ih, I),
        gates(weight_hh, H),
        biases,
        None if lengths is None else op.Cast(lengths, to=INT32),
        op.Unsqueeze(h0, directions),
        op.Unsqueeze(c0, directions),
        hidden_size=H,
        direction="reverse" if reverse else "forward",
    )
    h_n, c_n = op.Squeeze(h_n, directions), op.Squeeze(c_n, directions)
    if lengths is not None:  # a row with length 0 keeps its state: see onnx.py
        idle = op.Unsqueeze(
            op.Equal(lengths, op.Constant(value_int=0)), op.Constant(value_ints=[1])
        )
        h_n, c_n = op.Where(idle, h0, h_n), op.Where(idle, c0, c_n)
    kept = op.Identity(c0)  # stands for the tensors for backward, which an export never uses
    return op.Squeeze(y, steps), h_n, c_n, kept, kept
