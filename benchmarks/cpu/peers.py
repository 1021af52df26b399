"""The candidates of a sequence or a step: this library, nn.LSTM, ONNX Runtime, OpenVINO.

In inference all carry their state from call to call, as their users do, and start from zeros.
Training starts from zeros in every call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cpu.timing import Candidate
from benchmarks.shapes import Shape
from stateful_lstm import StatefulLSTM

OURS = "ours"
ONEDNN = {"nn.LSTM": True, "nn.LSTM no oneDNN": False}
Context = Callable[[], AbstractContextManager[Any]]
Float = np.ndarray[Any, np.dtype[np.float32]]


def our_twin(lstm: nn.LSTM, stateful: bool) -> StatefulLSTM:
    like = lstm.all_weights[0][0]
    ours = StatefulLSTM(
        lstm.input_size,
        lstm.hidden_size,
        lstm.num_layers,
        device=like.device,
        dtype=like.dtype,
        stateful=stateful,
    )
    ours.load_state_dict(lstm.state_dict())
    return ours.train(lstm.training)


def settings(onednn: bool, inference: bool) -> Context:
    """The context of a turn: oneDNN on or off, with or without gradients."""

    @contextmanager
    def context() -> Any:
        with ExitStack() as stack:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=onednn))
            if inference:
                stack.enter_context(torch.inference_mode())
            yield

    return context


# ---- inference -----------------------------------------------------------------------------------


def ours_inference(lstm: nn.LSTM, x: Tensor) -> Candidate:
    ours = our_twin(lstm, stateful=True)
    return Candidate(OURS, lambda: ours(x)[0], settings(True, inference=True))


def torch_inference(lstm: nn.LSTM, x: Tensor, name: str) -> Candidate:
    states: Any = None

    def run() -> Tensor:
        nonlocal states
        output, states = lstm(x, states)
        return output  # type: ignore[no-any-return]

    return Candidate(name, run, settings(ONEDNN[name], inference=True))


def onnx_model(lstm: nn.LSTM, shape: Shape) -> bytes:
    """One standard float32 LSTM node per layer; h and c of each layer are inputs and outputs."""
    onnx = importlib.import_module("onnx")
    helper, array = importlib.import_module("onnx.helper"), onnx.numpy_helper.from_array
    T, B, I, H, layers = shape  # noqa: E741

    def value(name: str, *sizes: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)

    def gates(weight: Tensor) -> Tensor:
        i, f, g, o = weight.detach().float().chunk(4)
        return torch.cat([i, o, f, g])  # the order of ONNX

    nodes, constants = [], []
    for k, (w_ih, w_hh, b_ih, b_hh) in enumerate(lstm.all_weights):
        bias = torch.cat([gates(b_ih), gates(b_hh)])
        for name, weight in (("W", gates(w_ih)), ("R", gates(w_hh)), ("B", bias)):
            constants.append(array(weight.unsqueeze(0).numpy(), f"{name}{k}"))
        source = f"x{k}" if k else "x"
        inputs = [source, f"W{k}", f"R{k}", f"B{k}", "", f"h{k}", f"c{k}"]
        outputs = [f"y{k}", f"h{k}_out", f"c{k}_out"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=H))
        if k + 1 < layers:  # (T, 1, B, H), one direction, to (T, B, H)
            constants.append(array(np.array([1]), f"axis{k}"))
            nodes.append(helper.make_node("Squeeze", [f"y{k}", f"axis{k}"], [f"x{k + 1}"]))
    names = [f"{name}{k}" for k in range(layers) for name in "hc"]
    graph = helper.make_graph(
        nodes,
        "lstm",
        [value("x", T, B, I), *(value(name, 1, B, H) for name in names)],
        [
            value(f"y{layers - 1}", T, 1, B, H),
            *(value(f"{name}_out", 1, B, H) for name in names),
        ],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()  # type: ignore[no-any-return]


def zero_feed(x: Tensor, shape: Shape) -> dict[str, Float]:
    """Inputs by name, in the model's order."""
    feed: dict[str, Float] = {"x": x.float().numpy()}
    for k in range(shape.layers):
        for name in "hc":
            feed[f"{name}{k}"] = np.zeros((1, shape.B, shape.H), np.float32)
    return feed


def onnx_runtime(lstm: nn.LSTM, x: Tensor, shape: Shape) -> Candidate:
    """A session call; its final states go to the next call. It has no bfloat16 LSTM."""
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(
        onnx_model(lstm, shape), options, providers=["CPUExecutionProvider"]
    )
    feed = zero_feed(x, shape)
    states = list(feed)[1:]

    def run() -> Float:
        output, *new = session.run(None, feed)
        feed.update(zip(states, new, strict=True))
        return output  # type: ignore[no-any-return]

    name = "ONNX Runtime" if x.dtype == torch.float32 else "ONNX Runtime f32"
    return Candidate(name, run)


def openvino(lstm: nn.LSTM, x: Tensor, shape: Shape) -> Candidate:
    """The same model, with two requests in turn: each reads the states that the other wrote.

    Nothing is copied: tensors are bound once, and a call has no inputs. This is OpenVINO's fastest
    form.
    """
    ov = importlib.import_module("openvino")
    core = ov.Core()
    halves = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    half = x.dtype == torch.bfloat16 and "BF16" in halves
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
    }
    compiled = core.compile_model(core.read_model(onnx_model(lstm, shape)), "CPU", config)
    requests = [compiled.create_infer_request() for _ in range(2)]
    for request, other in zip(requests, requests[::-1], strict=True):
        request.get_tensor("x").data[:] = x.float().numpy()
        for name in list(zero_feed(x, shape))[1:]:
            written = other.get_tensor(f"{name}_out")
            written.data[:] = 0
            request.set_tensor(name, written)
    turns = cycle(requests)

    def run() -> Float:
        request = next(turns)
        request.infer(share_outputs=True)
        return request.get_output_tensor(0).data  # type: ignore[no-any-return]

    wide = x.dtype != torch.float32 and not half
    return Candidate("OpenVINO f32" if wide else "OpenVINO", run)


def inference(lstm: nn.LSTM, x: Tensor, shape: Shape) -> tuple[list[Candidate], dict[str, str]]:
    """Ours first, then the peers; and the reason for each missing peer."""
    candidates = [ours_inference(lstm, x), *(torch_inference(lstm, x, name) for name in ONEDNN)]
    if x.dtype == torch.float64:
        return candidates, dict.fromkeys(("ONNX Runtime", "OpenVINO"), "not in float64")
    absent = {}
    for name, package, make in (
        ("ONNX Runtime", "onnxruntime", onnx_runtime),
        ("OpenVINO", "openvino", openvino),
    ):
        lacking = [each for each in ("onnx", package) if not find_spec(each)]
        if lacking:
            absent[name] = f"not installed: {', '.join(lacking)}"
        else:
            candidates.append(make(lstm, x, shape))
    return candidates, absent


# ---- training ------------------------------------------------------------------------------------


def train_step(
    lstm: nn.Module, forward: Callable[[], Tensor], grad: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Forward and backward from empty gradients; the check reads the returned tensors."""
    parameters = list(lstm.parameters())
    for parameter in parameters:
        parameter.grad = None
    output = forward()
    output.backward(grad)
    return output, [parameter.grad for parameter in parameters]


def training(lstm: nn.LSTM, x: Tensor, grad: Tensor) -> list[Candidate]:
    ours = our_twin(lstm, stateful=False)
    run = partial(train_step, ours, lambda: ours(x)[0], grad)
    theirs = partial(train_step, lstm, lambda: lstm(x)[0], grad)
    return [
        Candidate(OURS, run, settings(True, inference=False)),
        *(Candidate(name, theirs, settings(on, inference=False)) for name, on in ONEDNN.items()),
    ]
