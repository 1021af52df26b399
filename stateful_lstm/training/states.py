"""The resident states of a model in training.

As the functions of :mod:`stateful_lstm.whole_model`, but silent for a model without a StatefulLSTM:
the Trainer has warned of that once.
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
    """Puts back on leaving what is there now: ``preserve_state``."""
    return preserve_state(model) if present(model) else nullcontext()


def read(model: nn.Module) -> Rows:
    """Copies: ``get_state``."""
    return get_state(model) if present(model) else {}


def write(model: nn.Module, rows: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Puts back what :func:`read` returned: ``set_state``."""
    if rows or present(model):
        set_state(model, rows)
