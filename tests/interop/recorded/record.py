"""Records what Keras's stateful LSTMs compute, for tests/interop/test_keras.py to compare with.

    pip install keras tensorflow && KERAS_BACKEND=tensorflow python tests/interop/recorded/record.py

Only with TensorFlow: on torch Keras changes its states in place under the gradient, which torch
refuses, and on JAX predict keeps no state. Keras is not needed by anything else here.

Two layers and a Dense(1), stateful, run through predict, train and evaluate without a reset, then
with one; weights and states are written down after each. And Keras's own example, (32, 21, 16) as
steps 0 to 9 and 10 to 19; its inputs are not kept, as NumPy's generator makes them anywhere.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

B, T, FEATURES, HIDDEN = 3, 4, 2, 5
RATE = 0.1


def build() -> keras.Model:
    inputs = keras.Input(batch_shape=(B, T, FEATURES))
    x = keras.layers.LSTM(HIDDEN, stateful=True, return_sequences=True, name="first")(inputs)
    x = keras.layers.LSTM(HIDDEN, stateful=True, return_sequences=True, name="second")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(x))
    # The loss without reset_states between calls; SGD, so that a step shows the gradient.
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss="mse")
    return model


def main() -> None:
    if keras.backend.backend() != "tensorflow":
        raise SystemExit("say KERAS_BACKEND=tensorflow: other backends carry no state here")
    keras.utils.set_random_seed(1)
    model = build()
    random = np.random.default_rng(2)
    arrays: dict[str, np.ndarray] = {}

    def note(name: str, output: object = None) -> None:
        if output is not None:
            arrays[f"{name}/output"] = np.asarray(output, np.float32)
        for layer in ("first", "second"):
            for kind, state in zip("hc", model.get_layer(layer).states, strict=True):
                arrays[f"{name}/{layer}/{kind}"] = keras.ops.convert_to_numpy(state).copy()
        for weight in model.weights:
            arrays[f"{name}/{weight.path}"] = keras.ops.convert_to_numpy(weight).copy()

    note("begin")
    for k, call in enumerate(
        ("predict", "predict", "train", "evaluate", "predict", "reset", "predict")
    ):
        name = f"{k} {call}"
        if call == "reset":
            for layer in ("first", "second"):
                model.get_layer(layer).reset_states()
            note(name)
            continue
        x = random.standard_normal((B, T, FEATURES)).astype(np.float32)
        y = random.standard_normal((B, T, 1)).astype(np.float32)
        arrays[f"{name}/x"], arrays[f"{name}/y"] = x, y
        if call == "predict":
            note(name, model.predict_on_batch(x))
        elif call == "train":
            note(name, model.train_on_batch(x, y))
        else:
            note(name, model.test_on_batch(x, y))
    example(arrays)
    arrays["versions"] = np.array([keras.__version__, keras.backend.backend()])
    np.savez_compressed(Path(__file__).with_name("stateful.npz"), **arrays)


def example(arrays: dict[str, np.ndarray]) -> None:
    """Keras's page on stateful LSTMs: what two windows leave, and what they come to."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input(batch_shape=(32, 10, 16))
    layer = keras.layers.LSTM(8, stateful=True, name="example")
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(3).standard_normal((32, 21, 16)).astype(np.float32)
    for weight in model.weights:
        arrays[f"example/{weight.path}"] = keras.ops.convert_to_numpy(weight).copy()
    for k, window in enumerate((x[:, 0:10], x[:, 10:20])):
        arrays[f"example/output {k}"] = np.asarray(model.predict_on_batch(window), np.float32)
        for kind, state in zip("hc", layer.states, strict=True):
            arrays[f"example/{kind} {k}"] = keras.ops.convert_to_numpy(state).copy()


if __name__ == "__main__":
    main()
