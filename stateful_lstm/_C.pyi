# The compiled library's Python side: csrc/python.cpp.
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

def setup(
    tensor: type[Tensor],
    parameter: type[nn.Parameter],
    watchers: tuple[tuple[Callable[..., object], object, object], ...],
    mark_changed: Callable[[Any], object],
) -> bool: ...
def step(
    x: object,
    parameters: dict[str, Tensor | None],
    names: list[str],
    h: object,
    c: object,
    state_indices: object,
    reset_mask: object,
    lengths: object,
    bias: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """A stack in place on its state, past the dispatcher: (y, (h_n, c_n)); or None, no effect.

    None means: go the long way, which works or says what is wrong. It is the answer to whatever is
    no plain dense CPU tensor of the right dtype and shape, and to a mode in which torch wants to
    see the operator (autograd, autocast, profiler, tracing, dispatch modes, torch.func).

    Args: as of ``ops.lstm_step_``; the weights are found by their names in ``parameters``; x,
    reset_mask and y are (B, T, ...) with ``batch_first``.
    """
