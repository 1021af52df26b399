"""An LSTM for PyTorch whose state stays on the device between calls.

:class:`StatefulLSTM` stands wherever a ``torch.nn.LSTM`` stood; :func:`lstm` is the pure function
under it, and :mod:`stateful_lstm.reference` the specification of both.
"""

from . import reference
from ._version import __version__
from .functional import lstm, set_memory_budget
from .info import info
from .model import convert, get_state, preserve_state, reset_state, set_state
from .module import StatefulLSTM
from .state import LSTMState

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
