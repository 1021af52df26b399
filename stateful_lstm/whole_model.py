"""Functions for a whole model: every :class:`StatefulLSTM` inside it, at any depth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .backend.arguments import described
from .module import StatefulLSTM
from .state import LSTMState, as_pair


def layers_of(model: nn.Module) -> dict[str, StatefulLSTM]:
    """Every StatefulLSTM of a model, by its name there."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    return {name: m for name, m in model.named_modules() if isinstance(m, StatefulLSTM)}


def without_layers(model: nn.Module) -> str:
    """A sentence on a model that has no StatefulLSTM, and on the recurrent layers that it has."""
    others = [
        f"{name or 'the model itself'} ({type(m).__name__})"
        for name, m in model.named_modules()
        if isinstance(m, nn.RNNBase)
    ]
    has = f" It has {', '.join(others)}: stateful_lstm.convert turns nn.LSTM." if others else ""
    return f"{type(model).__name__} has no StatefulLSTM inside.{has}"


def _layers(model: nn.Module, function: str, above: int = 0) -> dict[str, StatefulLSTM]:
    """For a public function that would do nothing, silently, to a model without such layers.

    ``above``: functions between the public one and its caller, at whom the warning points.
    """
    layers = layers_of(model)
    if not layers:
        text = f"{function} does nothing: {without_layers(model)}"
        warnings.warn(text, UserWarning, stacklevel=3 + above)
    return layers


def reset_state(model: nn.Module, which: Any = None) -> None:
    """Sets rows of every layer's resident state to zero: :meth:`StatefulLSTM.reset_state`.

    Args:
        model: any module.
        which: None: all rows; a bool mask (S,); or int32 or int64 indices, each once. Checked
            against every layer before any is touched.

    Raises:
        TypeError: for another dtype, as :meth:`LSTMState.reset`.
        ValueError: for a wrong shape, or a slot named twice.
        IndexError: for a slot that is not there.

    Warns:
        UserWarning: the model has no StatefulLSTM.
    """
    layers = _layers(model, "reset_state").values()
    if which is not None:
        for layer in layers:
            if layer.state is not None:
                layer.state.select(which, once=True)
    for layer in layers:
        layer.reset_state(which)


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """A context manager: on leaving, every layer has exactly the state that it had on entry.

    Args:
        model: any module.

    Warns:
        UserWarning: the model has no StatefulLSTM.
    """
    with ExitStack() as stack:
        for layer in _layers(model, "preserve_state", above=1).values():  # contextlib is between
            stack.enter_context(layer.preserve_state())
        yield


def get_state(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of the resident states, to be saved beside ``state_dict()``.

    Args:
        model: any module.

    Returns:
        (h (L*D, S, P), c (L*D, S, H)) by the layers' names, without the layers that have none yet.
        :func:`set_state` resumes exactly there.

    Warns:
        UserWarning: the model has no StatefulLSTM.
    """
    return {
        name: layer.state.read()
        for name, layer in _layers(model, "get_state").items()
        if layer.state is not None
    }


def set_state(model: nn.Module, states: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Puts back what :func:`get_state` returned; nothing is changed when something does not fit.

    Args:
        model: any module.
        states: (h, c), tensors or arrays, by the layers' names; layers that it does not name have
            no state then.

    Raises:
        KeyError: for a name that is no layer of the model.
        TypeError: for a model that is no module, and anything but a dict of pairs of
            floating-point tensors or arrays.
        ValueError: for tensors that have not three dimensions, or do not fit a layer.

    Warns:
        UserWarning: the model has no StatefulLSTM.
    """
    if not isinstance(states, Mapping):
        raise TypeError(f"states must be a dict of (h, c) by name, got {described(states)}")
    layers = layers_of(model) if states else _layers(model, "set_state")
    unknown = [name for name in states if name not in layers]
    if unknown:
        raise KeyError(f"no StatefulLSTM of the model is named {unknown}; there are {list(layers)}")
    new: dict[str, LSTMState] = {}
    for name, hc in states.items():
        h, c = as_pair(hc)
        if h.dim() != 3 or c.dim() != 3:
            raise ValueError(f"{name}: expected (h, c), each of three dimensions")
        new[name] = layers[name].new_state(h.size(1))
        new[name].write((h, c))
    for name, layer in layers.items():
        old, fresh = layer.state, new.get(name)
        if old is not None and fresh is not None and old.slots == fresh.slots:
            old.write((fresh.h, fresh.c))  # in place: its address stays
        else:
            layer._state = fresh


def convert(model: nn.Module, stateful: bool = True) -> nn.Module:
    """Turns every ``nn.LSTM`` inside the model, or the model itself, into a StatefulLSTM.

    In place: parameters, hooks, mode and all references to the module stay what they are. Only
    plain ``nn.LSTM`` modules are turned, and parametrized ones; a subclass, a scripted or quantised
    module, and one with a ``forward`` set on it are left alone.

    Args:
        model: any module.
        stateful: whether a call without ``hx`` starts from where the last one ended. For a model
            that hands states over by itself, or whose sequences have nothing to do with each
            other: False.

    Returns:
        The model.

    Raises:
        TypeError: if ``stateful`` is no bool.
        ValueError: if such a module has something of its own under a name that StatefulLSTM needs
            (``state``, for one). Nothing is turned then.

    Warns:
        UserWarning: a module that is left alone, by name; or the model has no LSTM at all.
    """
    if not isinstance(stateful, bool):
        raise TypeError(f"stateful must be True or False, got {stateful!r}")
    found: list[tuple[nn.LSTM, type[StatefulLSTM]]] = []
    left_alone: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.LSTM):
            continue
        kind: type[StatefulLSTM]
        if "forward" in vars(module):
            left_alone.append(f"{name or 'the model'}, whose forward is its own")
            continue
        if type(module) is nn.LSTM:
            kind = StatefulLSTM
        elif nn.utils.parametrize.is_parametrized(module) and type(module).__bases__ == (nn.LSTM,):
            # torch gave this one module a class of its own, with a property per weight, and one
            # that refuses to be pickled. Copying is our own class's.
            given = vars(type(module)).items()
            own = {k: v for k, v in given if isinstance(v, property) or k == "__getstate__"}
            kind = type(f"Parametrized{StatefulLSTM.__name__}", (StatefulLSTM,), own)
        else:
            left_alone.append(f"{name or 'the model'}, a {type(module).__name__}")
            continue
        taken = _OWN_NAMES & {
            *vars(module),
            *module._parameters,
            *module._buffers,
            *module._modules,
        }
        if taken:
            raise ValueError(
                f"{name or 'the model'} cannot be turned: StatefulLSTM needs the names "
                f"{sorted(taken)}, which this nn.LSTM has for something else"
            )
        found.append((module, kind))
    for module, kind in found:
        module.__class__ = kind  # type: ignore[assignment]
        converted: Any = module
        converted._set_extras(stateful, 0.0, False, "none")
    if left_alone:
        warnings.warn(f"convert left alone: {'; '.join(left_alone)}", stacklevel=2)
    elif not found and not layers_of(model):
        text = f"convert does nothing: {type(model).__name__} has no nn.LSTM inside"
        warnings.warn(text, UserWarning, stacklevel=2)
    return model


# What an nn.LSTM may not have of its own: all that StatefulLSTM has and it has not. Names like
# __overloads__ are torch's: torch.jit.script leaves that one on an nn.LSTM.
_OWN_NAMES = {
    name for name in vars(StatefulLSTM) if name not in dir(nn.LSTM) and not name.startswith("__")
} | {*("stateful", "recurrent_dropout", "unit_forget_bias", "recompute", "_state")}
