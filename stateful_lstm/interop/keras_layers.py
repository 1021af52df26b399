"""Reads the argument of :func:`from_keras`: arrays, or live layers.

This needs no Keras: the name of its class identifies a live layer, and its attributes describe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
DTYPES = ("float32", "float64", "float16", "bfloat16")


class Options(NamedTuple):
    """The options of a live layer."""

    stateful: bool
    dropout: float
    recurrent_dropout: float
    unit_forget_bias: bool


class Layer(NamedTuple):
    """One layer of a StatefulLSTM; each direction is (kernel, recurrent kernel[, bias])."""

    directions: list[list[Array]]
    options: Options | None = None
    states: list[tuple[Array, Array]] | None = None  # (h, c) of each direction, both (B, H)


def read(source: Any) -> list[Layer]:
    """All layers, lowest first."""
    if type(source).__name__ == "Sequential" and _is_keras(source):
        source = list(source.layers)
    if not isinstance(source, (list, tuple)):
        return _read_live(source)
    if not source:
        raise ValueError("expected arrays or layers, got an empty list")
    if _is_array(source[0]):
        return [_read_arrays(source)]
    layers = []
    for each in source:
        if isinstance(each, (list, tuple)):
            layers.append(_read_arrays(each))
        else:
            layers += _read_live(each)
    return layers


def _is_keras(layer: Any) -> bool:
    """Whether the class is Keras's: a class of the same name may compute something else."""
    return type(layer).__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow")


def _is_known(function: Any) -> bool:
    """Whether an activation is Keras's or a backend's, not a user's function of the same name."""
    home = getattr(function, "__module__", None) or "torch"  # torch's functions have no module
    return home.split(".")[0] in ("keras", "tf_keras", "tensorflow", "torch", "jax")


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


def _plain(array: Any) -> Array:
    """The value as a numpy array; with Keras's torch backend, a variable is a parameter."""
    return np.asarray(array.detach().cpu() if isinstance(array, torch.Tensor) else array)


def _read_arrays(arrays: Sequence[Any]) -> Layer:
    if not all(_is_array(each) for each in arrays):
        kinds = [type(each).__name__ for each in arrays]
        raise TypeError(f"expected the arrays of one layer, got a list of {kinds}")
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(
            f"expected the arrays of one layer: kernel, recurrent kernel and an optional bias, "
            f"twice for Bidirectional, got {len(arrays)} arrays. A stack is a list of such lists"
        )
    each = len(arrays) // 2 if len(arrays) > 3 else len(arrays)
    plain = [_plain(array) for array in arrays]
    return Layer([plain[k : k + each] for k in range(0, len(plain), each)])


def _read_live(layer: Any) -> list[Layer]:
    """The layers of one Keras layer: stacked cells are several, everything else is one."""
    if type(layer).__name__ != "Bidirectional":
        return _read_rnn(layer, False)
    if layer.merge_mode != "concat":
        raise ValueError(f"{_name(layer)}: expected merge_mode='concat', got {layer.merge_mode!r}")
    both = [*_read_rnn(layer.forward_layer, False), *_read_rnn(layer.backward_layer, True)]
    if len(both) != 2:
        raise ValueError(
            f"{_name(layer)}: stacked cells inside Bidirectional are two stacks side by side; a "
            f"bidirectional LSTM cannot compute that"
        )
    forward, backward = both
    if forward.options != backward.options:
        raise ValueError(
            f"{_name(layer)}: both directions must be alike, got {forward.options} and "
            f"{backward.options}"
        )
    states = None
    if forward.states and backward.states:
        states = forward.states + backward.states
    return [Layer(forward.directions + backward.directions, forward.options, states)]


def _read_rnn(layer: Any, go_backwards: bool) -> list[Layer]:
    """``LSTM``, or ``RNN`` of ``LSTMCell``s; subclasses may compute something else."""
    cell = getattr(layer, "cell", None)
    cells = list(getattr(cell, "cells", [cell]))
    if (
        type(layer).__name__ not in ("LSTM", "RNN")
        or any(type(each).__name__ != "LSTMCell" for each in cells)
        or not all(map(_is_keras, (layer, *cells)))
    ):
        raise TypeError(
            f"expected arrays, keras.layers.LSTM, Bidirectional of LSTM, RNN of LSTMCell, or a "
            f"list or keras.Sequential of these, got {_name(layer)}"
        )
    if bool(layer.go_backwards) != go_backwards:
        raise ValueError(
            f"{_name(layer)}: expected go_backwards={go_backwards}, got {layer.go_backwards}. For "
            f"a layer that only runs in reverse, flip its input in time"
        )
    if getattr(layer, "time_major", False):
        raise ValueError(
            f"{_name(layer)}: expected time_major=False, got True. For a time-major layer pass "
            f"its weights and batch_first=False"
        )
    states = _flat(getattr(layer, "states", None))
    if len(states) != 2 * len(cells):
        states = []
    found = []
    for k, each in enumerate(cells):
        own = states[2 * k : 2 * k + 2]
        found.append(
            Layer(
                [_read_cell(each, _name(layer))],
                Options(
                    bool(layer.stateful),
                    float(each.dropout),
                    float(each.recurrent_dropout),
                    bool(each.unit_forget_bias),
                ),
                [(_plain(own[0]), _plain(own[1]))] if own else None,
            )
        )
    return found


def _read_cell(cell: Any, name: str) -> list[Array]:
    expected = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    for which, function in expected.items():
        given = getattr(cell, which)
        got = getattr(given, "__name__", repr(given))
        if got == function and not _is_known(given):
            got = f"{given.__module__}.{got}"
        if got != function:
            raise ValueError(f"{name}: expected {which}={function!r}, got {got!r}")
    arrays = [_plain(array) for array in cell.get_weights()]
    if not arrays:
        raise ValueError(f"{name} has no weights yet: build it, or call it once")
    if len(arrays) not in (2, 3):
        raise ValueError(
            f"{name}: expected kernel, recurrent kernel and an optional bias, got {len(arrays)} "
            f"arrays"
        )
    return arrays


def _name(layer: Any) -> str:
    name = getattr(layer, "name", None)
    return type(layer).__name__ + (f" {name!r}" if name else "")


def _flat(states: Any) -> list[Any]:
    """The states as a flat list: stacked cells have a list of lists."""
    if states is None:
        return []
    if isinstance(states, (list, tuple)):
        return [each for state in states for each in _flat(state)]
    return [states]


# ---------------------------------------------------------------- can the layers be one LSTM?


def check_alike(layers: list[Layer]) -> tuple[int, int, bool, torch.dtype]:
    """Input size, units, whether there are biases, and dtype of a stack.

    Raises:
        ValueError: a shape is wrong, or the layers differ.
    """
    first = layers[0].directions
    if first[0][0].ndim != 2 or first[0][0].shape[1] % 4 or not first[0][0].size:
        raise ValueError(f"a kernel must have shape (I, 4 * units), got {first[0][0].shape}")
    I, H = first[0][0].shape[0], first[0][0].shape[1] // 4  # noqa: E741
    advice = ""
    if len(layers) > 1:
        advice = ". In a stack all layers have the same units; convert other layers one by one"
    for k, layer in enumerate(layers):
        if len(layer.directions) != len(first):
            raise ValueError(
                f"the layers of a stack must have the same number of directions: layer 0 has "
                f"{len(first)}, layer {k} has {len(layer.directions)}"
            )
        for arrays in layer.directions:
            if len(arrays) != len(first[0]):
                raise ValueError("the layers of a stack must all have a bias, or none of them")
            size = I if k == 0 else len(first) * H
            shapes = {"kernel": (size, 4 * H), "recurrent kernel": (H, 4 * H), "bias": (4 * H,)}
            for (what, shape), array in zip(shapes.items(), arrays, strict=False):
                if array.shape != shape:
                    raise ValueError(
                        f"layer {k}: the {what} must have shape {shape}, got {array.shape}" + advice
                    )
    dtypes = {array.dtype.name for layer in layers for one in layer.directions for array in one}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        raise ValueError(f"expected arrays of one dtype among {DTYPES}, got {sorted(dtypes)}")
    dtype: torch.dtype = getattr(torch, dtypes.pop())
    return I, H, len(first[0]) == 3, dtype


def join_options(layers: list[Layer], stateful: bool | None) -> Options:
    """One set of options for the whole stack.

    Raises:
        TypeError: ``stateful`` is not a bool or None.
        ValueError: the layers' options differ, or a bidirectional layer is stateful.
    """
    if stateful is not None and not isinstance(stateful, bool):
        raise TypeError(f"stateful must be True, False or None, got {stateful!r}")
    live = [layer.options for layer in layers if layer.options is not None]
    if stateful is None:
        kept = {options.stateful for options in live} or {True}
        if len(kept) > 1:
            raise ValueError(
                "some layers are stateful and some are not: pass stateful=True or False"
            )
        stateful = kept.pop()
        if stateful and live and len(layers[0].directions) == 2:
            raise ValueError(
                "a stateful Bidirectional carries the state of both directions; a StatefulLSTM "
                "starts the reverse direction from zero at every call. Pass stateful=True for a "
                "reverse direction from zero. For Keras's behavior pass stateful=False, and pass "
                "each call's (h_n, c_n) to the next call as hx"
            )
    dropouts = {options.recurrent_dropout for options in live} or {0.0}
    if len(dropouts) > 1:
        raise ValueError(
            f"the layers of a stack must have the same recurrent_dropout, got {sorted(dropouts)}; "
            f"convert them one by one"
        )
    unit_forget_bias = bool(live) and all(options.unit_forget_bias for options in live)
    dropout = max((options.dropout for options in live), default=0.0)
    return Options(stateful, dropout, dropouts.pop(), unit_forget_bias)
