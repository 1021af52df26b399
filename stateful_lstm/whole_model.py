"""Functions for every :class:`StatefulLSTM` inside a model, at any depth."""

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
    """Every StatefulLSTM of a model, by its name in the model.

    Raises:
        TypeError: the argument is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    return {name: m for name, m in model.named_modules() if isinstance(m, StatefulLSTM)}


def without_layers(model: nn.Module) -> str:
    """A sentence for a model without a StatefulLSTM; it names the other recurrent layers."""
    others = [
        f"{name or 'the model itself'} ({type(m).__name__})"
        for name, m in model.named_modules()
        if isinstance(m, nn.RNNBase)
    ]
    has = (
        f" It has {', '.join(others)}: stateful_lstm.convert turns nn.LSTM into StatefulLSTM."
        if others
        else ""
    )
    return f"{type(model).__name__} has no StatefulLSTM inside.{has}"


def _layers(model: nn.Module, function: str, above: int = 0) -> dict[str, StatefulLSTM]:
    """The layers of a model; warns if the model has none and ``function`` would do nothing.

    ``above``: the number of frames between the public function and its caller, for the warning.
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
        which: None: all rows; a bool mask (S,); or int32 or int64 indices, each once. It is checked
            against every layer before any state changes.

    Raises:
        TypeError: ``which`` has another dtype, as in :meth:`LSTMState.reset`.
        ValueError: ``which`` has a wrong shape, or names a slot twice.
        IndexError: a slot is out of range.

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
    """A context manager that restores every layer's state on exit, bit for bit.

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
    """Copies of the resident states, to save beside ``state_dict()``.

    Args:
        model: any module.

    Returns:
        (h (L*D, S, P), c (L*D, S, H)) by the layers' names, without the layers that have no state
        yet. :func:`set_state` restores them exactly.

    Warns:
        UserWarning: the model has no StatefulLSTM.
    """
    return {
        name: layer.state.read()
        for name, layer in _layers(model, "get_state").items()
        if layer.state is not None
    }


def set_state(model: nn.Module, states: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Restores the result of :func:`get_state`. An error changes nothing.

    Args:
        model: any module.
        states: (h (L*D, S, P), c (L*D, S, H)), tensors or arrays, by the layers' names. A layer
            without an entry loses its state.

    Raises:
        KeyError: a name belongs to no layer of the model.
        TypeError: the model is not a module, or ``states`` is not a dict of pairs of
            floating-point tensors or arrays.
        ValueError: a tensor does not have three dimensions, or does not fit its layer.

    Warns:
        UserWarning: the model has no StatefulLSTM.
    """
    if not isinstance(states, Mapping):
        raise TypeError(f"states must be a dict of (h, c) by name, got {described(states)}")
    layers = layers_of(model) if states else _layers(model, "set_state")
    unknown = [name for name in states if name not in layers]
    if unknown:
        raise KeyError(
            f"no StatefulLSTM of the model is named {unknown}: expected names among {list(layers)}"
        )
    new: dict[str, LSTMState] = {}
    for name, hc in states.items():
        h, c = as_pair(hc)
        if h.dim() != 3 or c.dim() != 3:
            raise ValueError(
                f"{name}: expected (h, c) with three dimensions each, got shapes "
                f"{tuple(h.shape)} and {tuple(c.shape)}"
            )
        new[name] = layers[name].new_state(h.size(1))
        new[name].write((h, c))
    for name, layer in layers.items():
        old, fresh = layer.state, new.get(name)
        if old is not None and fresh is not None and old.slots == fresh.slots:
            old.write((fresh.h, fresh.c))  # in place, so that the address stays
        else:
            layer._state = fresh


def convert(model: nn.Module, stateful: bool = True) -> nn.Module:
    """Turns every ``nn.LSTM`` inside the model, or the model itself, into a StatefulLSTM.

    The conversion is in place: parameters, hooks, mode and all references to the module stay the
    same. It converts plain and parametrized ``nn.LSTM`` modules. It leaves alone subclasses,
    scripted and quantized modules, and modules with their own ``forward`` attribute.

    Args:
        model: any module.
        stateful: whether a call without ``hx`` starts from the last call's final state. Use False
            for a model that passes states itself, or whose calls have unrelated sequences.

    Returns:
        The model.

    Raises:
        TypeError: ``stateful`` is not a bool.
        ValueError: a module has its own attribute under a name that StatefulLSTM needs (``state``,
            for example). No module is converted then.

    Warns:
        UserWarning: a module is left alone, by name; or the model has no LSTM.
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
            # torch gave this module its own class, with a property per weight and a __getstate__
            # that refuses pickling. Copies use our class's method.
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
                f"{name or 'the model'} cannot be converted: StatefulLSTM needs the names "
                f"{sorted(taken)}, which this nn.LSTM uses for its own attributes"
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


# Names that an nn.LSTM may not use: those that StatefulLSTM adds. Names like __overloads__ belong
# to torch: torch.jit.script leaves it on an nn.LSTM.
_OWN_NAMES = {
    name for name in vars(StatefulLSTM) if name not in dir(nn.LSTM) and not name.startswith("__")
} | {*("stateful", "recurrent_dropout", "unit_forget_bias", "recompute", "_state")}
