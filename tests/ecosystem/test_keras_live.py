"""from_keras and to_keras with Keras's own layers; tests/interop has stand-ins for them."""

import numpy as np
import pytest
import torch

from stateful_lstm.interop import from_keras, to_keras

# Whatever Keras and its backend find deprecated while they are imported is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

layers = pytest.importorskip("keras.layers", reason="Keras is not installed")
keras = pytest.importorskip("keras")

B, T, FEATURES, UNITS = 3, 4, 2, 5
LSTM = {"return_sequences": True, "bias_initializer": "random_normal"}


def build(*stack, stateful=True):
    batch = B if stateful else None
    return keras.Sequential([keras.Input(batch_shape=(batch, T, FEATURES)), *stack])


def x(seed):
    return np.random.default_rng(seed).standard_normal((B, T, FEATURES)).astype(np.float32)


def cells():
    return [layers.LSTMCell(UNITS, bias_initializer="random_normal") for _ in range(2)]


STACKS = {
    "LSTM": lambda **on: [layers.LSTM(UNITS, **LSTM, **on)],
    "no bias": lambda **on: [layers.LSTM(UNITS, use_bias=False, return_sequences=True, **on)],
    "two": lambda **on: [layers.LSTM(UNITS, **LSTM, **on) for _ in range(2)],
    "cell": lambda **on: [layers.RNN(cells()[0], return_sequences=True, **on)],
    "cells": lambda **on: [layers.RNN(cells(), return_sequences=True, **on)],
    "Bidirectional": lambda **on: [layers.Bidirectional(layers.LSTM(UNITS, **LSTM, **on))],
    "Bidirectionals": lambda **on: [
        layers.Bidirectional(layers.LSTM(UNITS, **LSTM, **on)) for _ in range(2)
    ],
}
ONE_WAY = [name for name in STACKS if "Bidirectional" not in name]


def close(found, expected):
    torch.testing.assert_close(found, torch.from_numpy(np.array(expected)), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ONE_WAY)
def test_goes_on_where_the_stateful_layer_is(name):
    model = build(*STACKS[name](stateful=True))
    fresh = from_keras(model)
    for seed in range(3):
        expected = model.predict_on_batch(x(seed))
        with torch.no_grad():
            close(fresh(torch.from_numpy(x(seed)))[0], expected)
    resumed = from_keras(model.layers)  # with the state of now
    with torch.no_grad():
        close(resumed(torch.from_numpy(x(3)))[0], model.predict_on_batch(x(3)))


@pytest.mark.parametrize("name", STACKS)
def test_layers_without_state(name):
    model = build(*STACKS[name](), stateful=False)
    lstm = from_keras(model)
    assert not lstm.stateful
    with torch.no_grad():
        for seed in range(2):
            close(lstm(torch.from_numpy(x(seed)))[0], model.predict_on_batch(x(seed)))


def test_both_directions_with_state():
    model = build(*STACKS["Bidirectional"](stateful=True))
    with pytest.raises(ValueError, match="both directions"):
        from_keras(model)
    lstm, hx = from_keras(model, stateful=False), None
    for seed in range(3):
        with torch.no_grad():
            output, hx = lstm(torch.from_numpy(x(seed)), hx)
        close(output, model.predict_on_batch(x(seed)))


@pytest.mark.parametrize("name", ["LSTM", "Bidirectional"])
def test_what_keras_returns_without_sequences(name):
    layer = STACKS[name]()[0]
    model = build(layer, stateful=False)
    model.predict_on_batch(x(0))
    (layer if name == "LSTM" else layer.forward_layer).return_sequences = False
    if name == "Bidirectional":
        layer.backward_layer.return_sequences = layer.return_sequences = False
    with torch.no_grad():
        _, (h_n, _) = from_keras(layer)(torch.from_numpy(x(0)))
    found = h_n[-1] if name == "LSTM" else torch.cat([h_n[-2], h_n[-1]], -1)
    close(found, keras.ops.convert_to_numpy(layer(x(0))))


@pytest.mark.parametrize("name", ["LSTM", "no bias", "two", "Bidirectionals"])
def test_keras_takes_ours(name):
    model = build(*STACKS[name](), stateful=False)
    lstm = from_keras(model)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.uniform_(-1, 1)
        for layer, arrays in zip(model.layers, to_keras(lstm), strict=True):
            layer.set_weights(arrays)
        close(lstm(torch.from_numpy(x(0)))[0], model.predict_on_batch(x(0)))


def test_refused():
    def built(layer):
        layer.build((B, T, FEATURES))
        return layer

    for layer, words in (
        (layers.LSTM(UNITS), "no weights yet"),
        (built(layers.LSTM(UNITS, activation="relu")), "activation='tanh', got 'relu'"),
        (built(layers.LSTM(UNITS, activation=None)), "activation='tanh', got 'linear'"),
        (built(layers.LSTM(UNITS, recurrent_activation="hard_sigmoid")), "got 'hard_sigmoid'"),
        (built(layers.LSTM(UNITS, go_backwards=True)), "go_backwards=False, got True"),
        (built(layers.Bidirectional(layers.LSTM(UNITS), merge_mode="ave")), "got 'ave'"),
    ):
        with pytest.raises(ValueError, match=words):
            from_keras(layer)
    with pytest.raises(TypeError, match="got GRU"):
        from_keras(built(layers.GRU(UNITS)))
    with pytest.warns(UserWarning, match=r"dropout=0\.5 is left out"):
        lstm = from_keras(built(layers.LSTM(UNITS, dropout=0.5, recurrent_dropout=0.25)))
    assert lstm.recurrent_dropout == 0.25


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_dtypes(dtype):
    # Keras's own choice of the initializer needs a decomposition that 16-bit numbers have not.
    layer = layers.LSTM(UNITS, dtype=dtype, recurrent_initializer="glorot_uniform", **LSTM)
    layer.build((B, T, FEATURES))
    expected = torch.float32 if dtype == "mixed_float16" else getattr(torch, dtype)
    assert from_keras(layer).weight_hh_l0.dtype == expected


@pytest.mark.parametrize("zeros", [False, True])
def test_masks_are_lengths(zeros):
    """At valid steps and at the end; after a row's end Keras repeats its last output, or not."""
    layer = layers.LSTM(UNITS, return_state=True, zero_output_for_mask=zeros, **LSTM)
    lengths = torch.tensor([4, 1, 3])
    valid = torch.arange(T) < lengths[:, None]
    layer.build((B, T, FEATURES))
    expected, h, c = map(
        keras.ops.convert_to_numpy, layer(x(0), mask=keras.ops.convert_to_tensor(valid.numpy()))
    )
    with torch.no_grad():
        y, (h_n, c_n) = from_keras(layer)(torch.from_numpy(x(0)), lengths=lengths)
    close(h_n[0], h)
    close(c_n[0], c)
    close(y[valid], expected[valid.numpy()])
    assert not y[~valid].any() and (expected[~valid.numpy()] == 0).all() == zeros


def test_initial_states_are_hx():
    layer = STACKS["LSTM"]()[0]
    layer.build((B, T, FEATURES))
    h, c = (np.random.default_rng(k).standard_normal((B, UNITS)).astype("float32") for k in (1, 2))
    expected = keras.ops.convert_to_numpy(layer(x(0), initial_state=[h, c]))
    with torch.no_grad():
        hx = tuple(torch.from_numpy(each)[None] for each in (h, c))
        close(from_keras(layer)(torch.from_numpy(x(0)), hx)[0], expected)


def test_a_class_of_the_users_is_refused():
    class LSTM(layers.LSTM):
        """It may compute anything."""

    layer = LSTM(UNITS)
    layer.build((B, T, FEATURES))
    with pytest.raises(TypeError, match="got LSTM"):
        from_keras(layer)
    layer = layers.LSTM(UNITS)
    layer.build((B, T, FEATURES))
    close(from_keras([each.value for each in layer.weights]).weight_hh_l0, layer.get_weights()[1].T)
