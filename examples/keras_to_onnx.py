"""From Keras through PyTorch to ONNX: the same numbers in three places, window by window.

The weights of two layers, in the layout of Keras's `get_weights()`, become one StatefulLSTM, which
carries its state. The export gives an ONNX model whose states are inputs and outputs. ONNX Runtime
runs it over the same windows, and the example passes the states from call to call. A third run is
the LSTM in numpy, by Keras's definition.

    python examples/keras_to_onnx.py [--quick] [--out DIR]

It needs onnx and onnxruntime: pip install -r requirements/interop.txt.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import arguments
from numpy.typing import NDArray
from torch.testing import assert_close

from stateful_lstm.interop import export_onnx, from_keras

Array = NDArray[np.float32]
ROWS, WINDOW, FEATURES, UNITS = 4, 10, 3, 16


def keras_weights(random: np.random.Generator) -> list[list[Array]]:
    """Weights of two stacked layers, like [l.get_weights() for l in layers] of a Keras model."""

    def layer(inputs: int) -> list[Array]:
        kernel, recurrent = (random.normal(0, 0.3, (n, 4 * UNITS)) for n in (inputs, UNITS))
        bias = np.repeat([0.0, 1.0, 0.0, 0.0], UNITS)  # gates i, f, c, o: unit_forget_bias
        return [array.astype(np.float32) for array in (kernel, recurrent, bias)]

    return [layer(FEATURES), layer(UNITS)]


def keras_step(layer: list[Array], x: Array, h: Any, c: Any) -> tuple[Any, Any]:
    """One step of keras.layers.LSTM."""
    kernel, recurrent, bias = layer
    gates: list[Any] = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
    i, f, g, o = gates
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c


class AsKeras:
    """Keras's stateful=True: every call continues from the last call's state."""

    def __init__(self, layers: list[list[Array]]) -> None:
        self.layers = layers
        self.states = [np.zeros((2, ROWS, UNITS), np.float32) for _ in layers]

    def __call__(self, x: Array) -> Array:
        output = np.empty((ROWS, x.shape[1], UNITS), np.float32)
        for t in range(x.shape[1]):
            y = x[:, t]
            for layer, hc in zip(self.layers, self.states, strict=True):
                hc[:] = keras_step(layer, y, hc[0], hc[1])
                y = hc[0]
            output[:, t] = y
        return output


class InRuntime:
    """The ONNX model; h_n and c_n of one call are h_0 and c_0 of the next."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.h = self.c = np.zeros((2, ROWS, UNITS), np.float32)

    def __call__(self, x: Array) -> Array:
        feed = {"input": x, "h_0": self.h, "c_0": self.c}
        output: Array
        output, self.h, self.c = self.session.run(["output", "h_n", "c_n"], feed)
        return output


def main() -> None:
    options = arguments("From Keras through PyTorch to ONNX", "fewer windows")
    lacking = [name for name in ("onnx", "onnxruntime") if not find_spec(name)]
    if lacking:
        print(f"skipped: it needs {' and '.join(lacking)} (requirements/interop.txt)")
        return

    random = np.random.default_rng(0)
    weights = keras_weights(random)
    lstm = from_keras(weights)  # batch_first and stateful, as Keras's layers are
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "keras_to_onnx.onnx"
    model = export_onnx(lstm, path)
    print(f"{lstm}\n{path}: {', '.join(node.op_type for node in model.graph.node)}")

    in_keras, in_runtime = AsKeras(weights), InRuntime(path)
    windows = 5 if options.quick else 50
    apart = 0.0
    for _ in range(windows):
        x = random.standard_normal((ROWS, WINDOW, FEATURES), np.float32)
        with torch.no_grad():
            output, _ = lstm(torch.from_numpy(x))
        for other in (in_keras(x), in_runtime(x)):
            assert_close(torch.from_numpy(other), output)
            apart = max(apart, float(np.abs(other - output.numpy()).max()))
    assert lstm.state is not None
    assert_close(torch.from_numpy(in_runtime.c), lstm.state.c)
    print(
        f"{windows} windows of {WINDOW} steps, one state: Keras's equations, StatefulLSTM and ONNX "
        f"Runtime agree (at most {apart:.0e} apart)"
    )


if __name__ == "__main__":
    main()
