"""An LSTM for PyTorch whose state stays on the device between calls.

:class:`StatefulLSTM` replaces ``torch.nn.LSTM``; :func:`lstm` is the pure function under it, and
:mod:`stateful_lstm.reference` is the specification of both. ``stateful_lstm.data``,
``stateful_lstm.training`` and ``stateful_lstm.interop`` are imported on first use.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from . import reference
from ._version import __version__
from .functional import lstm, set_memory_budget
from .info import info
from .module import StatefulLSTM
from .state import LSTMState
from .whole_model import convert, get_state, preserve_state, reset_state, set_state

__all__ = [
    "LSTMState",
    "StatefulLSTM",
    "__version__",
    "convert",
    "get_state",
    "info",
    "lstm",
    "preserve_state",
    "reference",
    "reset_state",
    "set_memory_budget",
    "set_state",
]

if TYPE_CHECKING:
    from . import data as data
    from . import interop as interop
    from . import training as training
else:
    _ON_FIRST_USE = ("data", "interop", "training")

    def __getattr__(name: str) -> ModuleType:
        if name in _ON_FIRST_USE:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ON_FIRST_USE})
