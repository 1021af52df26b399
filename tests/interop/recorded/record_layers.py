"""Records what layers of Keras compute, for tests/interop/test_interop_keras.py to compare with.

    pip install keras && KERAS_BACKEND=torch python tests/interop/recorded/record_layers.py

Keras is not needed by anything else here. Every kind of layer that from_keras takes is stateful and
run over two windows, reset, and run over a third; its weights, outputs and states are written down.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

B, T, FEATURES, UNITS = 3, 4, 2, 5
COMMON = {"return_sequences": True, "stateful": True}


def lstm(**options: object) -> keras.layers.LSTM:
    return layers.LSTM(UNITS, bias_initializer="random_normal", **COMMON, **options)


def cells() -> keras.layers.RNN:
    both = [layers.LSTMCell(UNITS, bias_initializer="random_normal") for _ in range(2)]
    return layers.RNN(both, **COMMON)


CASES: dict[str, Callable[[], list[keras.layers.Layer]]] = {
    "single": lambda: [lstm()],
    "no bias": lambda: [lstm(use_bias=False)],
    "stacked": lambda: [lstm(), lstm()],
    "stacked cells": lambda: [cells()],
    "bidirectional": lambda: [layers.Bidirectional(lstm())],
    "stacked bidirectional": lambda: [layers.Bidirectional(lstm()) for _ in range(2)],
    "bidirectional no bias": lambda: [layers.Bidirectional(lstm(use_bias=False))],
}


def variables(states: object) -> list[keras.Variable]:
    """h and c of every cell. Stacked cells have a list of lists, which reset_state takes ill."""
    if isinstance(states, (list, tuple)):
        return [each for state in states for each in variables(state)]
    return [states]


def main() -> None:
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(2)
    arrays: dict[str, np.ndarray] = {}
    for case, build in CASES.items():
        stack = build()
        model = keras.Sequential([keras.Input(batch_shape=(B, T, FEATURES)), *stack])
        for k, layer in enumerate(stack):
            for number, weight in enumerate(layer.get_weights()):
                arrays[f"{case}/weights/{k}/{number}"] = weight
        for window in range(3):
            states = [state for layer in stack for state in variables(layer.states)]
            if window == 2:
                for state in states:
                    state.assign(np.zeros(state.shape))
            x = random.standard_normal((B, T, FEATURES)).astype(np.float32)
            arrays[f"{case}/{window}/x"] = x
            arrays[f"{case}/{window}/output"] = np.asarray(model.predict_on_batch(x))
            for kind, name in enumerate("hc"):
                values = [keras.ops.convert_to_numpy(state) for state in states[kind::2]]
                arrays[f"{case}/{window}/{name}"] = np.stack(values)
    arrays["versions"] = np.array([keras.__version__, keras.backend.backend()])
    np.savez_compressed(Path(__file__).with_name("layers.npz"), **arrays)


if __name__ == "__main__":
    main()
