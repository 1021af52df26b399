"""The resident states of a model in training.

These functions are those of :mod:`stateful_lstm.whole_model`, without the warning for a model that
has no StatefulLSTM: the Trainer warns once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from ..whole_model import get_state, layers_of, preserve_state, reset_state, set_state

Rows = dict[str, tuple[Tensor, Tensor]]  # (h, c) by the layers' names


def present(model: nn.Module) -> bool:
    """Whether the model has a StatefulLSTM."""
    return bool(layers_of(model))


def reset(model: nn.Module, which: Any = None) -> None:
    """Sets rows to zero: ``reset_state``."""
    if present(model):
        reset_state(model, which)


def preserve(model: nn.Module) -> AbstractContextManager[None]:
    """Restores on exit the states at entry: ``preserve_state``."""
    return preserve_state(model) if present(model) else nullcontext()


def read(model: nn.Module) -> Rows:
    """Copies of the states: ``get_state``."""
    return get_state(model) if present(model) else {}


def write(model: nn.Module, rows: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Restores the states that :func:`read` returned: ``set_state``."""
    if rows or present(model):
        set_state(model, rows)
