"""``export_onnx``: a file with standard LSTM nodes, whose states are inputs and outputs.

The graph has a few nodes per layer, made with onnx's own helper.
Source of the operator: https://onnx.ai/onnx/operators/onnx__LSTM.html. Its gates are i, o, f, c,
where PyTorch has i, f, g, o (c is g); its biases are 8H numbers, those of the input before those
of h.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..backend.arguments import as_int
from .weights import Direction, read_weights

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 14  # the first with this form of the LSTM node
BFLOAT16_OPSET = 22  # the first whose LSTM takes bfloat16


def export_onnx(
    lstm: nn.RNNBase, path: str | os.PathLike[str], *, opset: int = 17, lengths: bool = False
) -> onnx.ModelProto:
    """Writes an ONNX model of the layer: one standard ``LSTM`` node per layer, explicit states.

    T steps, B rows, I input size, H hidden size, L layers, D directions. T and B are free in the
    model. Its inputs and outputs, all but ``lengths`` in the layer's dtype:

    * ``input``: (T, B, I), or (B, T, I) with ``batch_first``; T and B at least 1.
    * ``h_0``, ``c_0``: (L*D, B, H), like ``hx`` of ``nn.LSTM``.
    * ``lengths``, if requested: int32 (B,), 0 to T, as in :func:`stateful_lstm.lstm`: the output is
      0 from step ``length`` on, and the final state is the state after the row's last valid step.
    * ``output``: (T, B, D*H), or (B, T, D*H) with ``batch_first``.
    * ``h_n``, ``c_n``: (L*D, B, H).

    The export neither reads nor writes the resident state; ``lstm.state.read()`` gives its values.
    To continue a run, pass its ``h_n`` and ``c_n`` as the next run's ``h_0`` and ``c_0``. A
    bidirectional layer with resident state starts its reverse direction from zero at every call: to
    get the same, set rows 1, 3, ... of ``h_0`` and ``c_0`` (``h_0[1::2]``) to zero before each run.

    The model computes the layer's eval mode, without dropout, in any mode of the layer.

    For a whole model see :func:`onnx_translations`. Source:
    https://onnx.ai/onnx/operators/onnx__LSTM.html.

    Args:
        lstm: a ``StatefulLSTM`` or an ``nn.LSTM``, on any device. ONNX Runtime runs float32 and
            float16; float64 and bfloat16 are valid ONNX, but ONNX Runtime (1.32) does not run them.
        path: of the file to write.
        opset: version of ONNX's operators, 14 or later; 22 or later for bfloat16.
        lengths: whether the model has the input ``lengths``.

    Returns:
        The model, as written.

    Raises:
        ImportError: the package ``onnx`` is not installed.
        TypeError: the layer is not an LSTM, ONNX's LSTM lacks its dtype, or ``opset`` is not a
            number.
        ValueError: the layer has ``proj_size``, which ONNX's LSTM lacks, or ``opset`` is out of
            range.
    """
    try:
        from onnx import checker, defs
    except ImportError as error:
        raise ImportError("export_onnx needs the package onnx: pip install onnx") from error
    layers = read_weights(lstm, "ONNX's LSTM")
    kind = _element_type(layers[0][0].w_ih.dtype, opset)
    newest = defs.onnx_opset_version()
    opset = as_int(opset)
    if isinstance(opset, bool) or not isinstance(opset, int):
        raise TypeError(f"opset must be a number, got {opset!r}")
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset must be {OLDEST_OPSET} to {newest}, got {opset}")
    model = _model(layers, kind, lstm.input_size, lstm.batch_first, opset, lengths)
    checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString())
    return model


def _element_type(dtype: torch.dtype, opset: int) -> int:
    """ONNX's number for the dtype."""
    from onnx import TensorProto

    kinds = {
        torch.float32: TensorProto.FLOAT,
        torch.float64: TensorProto.DOUBLE,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
    }
    if dtype not in kinds:
        raise TypeError(f"expected weights of a dtype among {[*kinds]}, got {dtype}")
    if dtype == torch.bfloat16 and opset < BFLOAT16_OPSET:
        raise ValueError(
            f"ONNX's LSTM takes bfloat16 from opset {BFLOAT16_OPSET} on, got opset={opset}. ONNX "
            f"Runtime runs no bfloat16 LSTM: export copy.deepcopy(lstm).float() for it"
        )
    return kinds[dtype]


class _Graph:
    """The nodes and constants of a graph under construction."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its first output, which is the node's name too."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))
        return outputs[0]

    def integers(self, name: str, values: Sequence[int], bits: int = 64) -> str:
        from onnx import TensorProto, helper

        kind = {32: TensorProto.INT32, 64: TensorProto.INT64}[bits]
        self.constants.append(helper.make_tensor(name, kind, [len(values)], values))
        return name

    def weight(self, name: str, directions: Sequence[Tensor]) -> str:
        from onnx import helper

        t = torch.stack([*directions]).cpu()
        raw = t.view(torch.uint8).numpy().tobytes()
        self.constants.append(helper.make_tensor(name, self.kind, t.shape, raw, raw=True))
        return name


def _model(
    layers: list[list[Direction]],
    kind: int,
    input_size: int,
    batch_first: bool,
    opset: int,
    lengths: bool,
) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    L, D, H = len(layers), len(layers[0]), layers[0][0].w_hh.size(1)

    def value(name: str, *sizes: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, sizes)

    axes = ("batch", "time") if batch_first else ("time", "batch")
    inputs = [value("input", *axes, input_size)]
    inputs += [value(name, L * D, "batch", H) for name in ("h_0", "c_0")]
    if lengths:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    outputs = [value("output", *axes, D * H)]
    outputs += [value(name, L * D, "batch", H) for name in ("h_n", "c_n")]
    graph = _Graph(kind)
    _fill(graph, layers, batch_first, lengths)
    operators = [helper.make_opsetid("", opset)]
    return helper.make_model(
        helper.make_graph(graph.nodes, "lstm", inputs, outputs, graph.constants),
        producer_name="stateful_lstm",
        producer_version=__version__,
        opset_imports=operators,
        ir_version=helper.find_min_ir_version_for(operators),  # old readers reject a newer version
    )


def _fill(graph: _Graph, layers: list[list[Direction]], batch_first: bool, lengths: bool) -> None:
    """Adds the nodes from input, h_0, c_0 (and lengths) to output, h_n, c_n."""
    L, D, H = len(layers), len(layers[0]), layers[0][0].w_hh.size(1)
    starts, ends = ("h_0", "c_0"), ("h_end", "c_end") if lengths else ("h_n", "c_n")

    def of_layers(whole: str) -> list[str]:
        return [f"{whole}_l{k}" for k in range(L)] if L > 1 else [whole]

    (h_0, c_0), (h_n, c_n) = map(of_layers, starts), map(of_layers, ends)
    if L > 1:
        parts = graph.integers("parts", [D] * L)
        for whole in starts:
            graph.add("Split", [whole, parts], *of_layers(whole), axis=0)

    x = graph.add("Transpose", ["input"], "x_l0", perm=[1, 0, 2]) if batch_first else "input"
    shape = graph.integers("shape", [0, 0, D * H])  # 0 keeps the size
    for k, layer in enumerate(layers):
        y = graph.add(
            "LSTM",
            [x, *_weights(graph, k, layer), "lengths" if lengths else "", h_0[k], c_0[k]],
            f"y_l{k}",
            h_n[k],
            c_n[k],
            hidden_size=H,
            direction="bidirectional" if D == 2 else "forward",
        )
        last = k == L - 1
        perm = [2, 0, 1, 3] if last and batch_first else [0, 2, 1, 3]  # y is (T, D, B, H)
        y = graph.add("Transpose", [y], f"y_l{k}_turned", perm=perm)
        x = graph.add("Reshape", [y, shape], "output" if last else f"x_l{k + 1}")

    if L > 1:
        for whole in ends:
            graph.add("Concat", of_layers(whole), whole, axis=0)
    if lengths:  # a row with length 0 keeps its state: ONNX Runtime's node returns zeros for it
        idle = graph.add("Equal", ["lengths", graph.integers("zero", [0], bits=32)], "idle_rows")
        idle = graph.add("Unsqueeze", [idle, graph.integers("axis", [1])], "idle")
        for whole, name in zip(ends, "hc", strict=True):
            graph.add("Where", [idle, f"{name}_0", whole], f"{name}_n")


def _weights(graph: _Graph, k: int, layer: list[Direction]) -> list[str]:
    """Names of W (D, 4H, I), R (D, 4H, H) and B (D, 8H), the last empty if there are no biases."""
    W = graph.weight(f"W_l{k}", [_gates(direction.w_ih) for direction in layer])
    R = graph.weight(f"R_l{k}", [_gates(direction.w_hh) for direction in layer])
    biases = [
        torch.cat([_gates(direction.b_ih), _gates(direction.b_hh)])
        for direction in layer
        if direction.b_ih is not None and direction.b_hh is not None
    ]
    return [W, R, graph.weight(f"B_l{k}", biases) if biases else ""]


def _gates(weight: Tensor) -> Tensor:
    """(4H, ...): from i, f, g, o to i, o, f, g."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, o, f, g])
