# The compiled library's Python side: csrc/bindings/fastpath_module.cpp, and beside it a file for
# each fast path.
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

def setup(
    tensor: type[Tensor],
    parameter: type[nn.Parameter],
    watchers: tuple[tuple[Callable[..., object], object, object], ...],
    mark_changed: Callable[[Any], object],
    backward_pass: Callable[[], int],
) -> bool: ...
def first_freed(tensors: tuple[object, ...]) -> int:
    """The place of the first tensor whose storage was freed, or -1, passing over other objects."""

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

    None means: go the regular path, which works or says what is wrong. It is the answer to whatever
    is no plain dense CPU tensor of the right dtype and shape, and to a mode in which torch wants to
    see the operator (autograd, autocast, profiler, tracing, dispatch modes, torch.func).

    Args: as of ``ops.lstm_step_``; the weights are found by their names in ``parameters``; x,
    reset_mask and y are (B, T, ...) with ``batch_first``.
    """

def forward(
    x: object,
    weight_ih: object,
    weight_hh: object,
    bias_ih: object,
    bias_hh: object,
    h0: object,
    c0: object,
    reset_mask: object,
    save: bool,
) -> tuple[Tensor, ...] | None:
    """One layer, past the dispatcher; or None, no effect, as for :func:`step`.

    Args: as of ``ops.lstm_forward``, without a projection.
    ``save``: keep what backward needs. Without it the weights may be read where they lie.

    Returns: y (T, B, H), h_n (1, B, H) and, in the dtype of sums, c_n (1, B, H); and with ``save``
    gates (T, B, 4H) and cells (T, B, H).
    """

def gradients(
    grad_y: object,
    grad_h_n: object,
    grad_c_n: object,
    saved: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...] | None:
    """Its gradients, past the dispatcher; or None, no effect.

    Args: gradients of its first three results, or None; what the regular path's function saves for
    backward where it keeps all (``autograd.py``); and of which inputs gradients are wanted:
    whatever comes first, then x, four weights, h0, c0 and the mask.

    Returns: the gradients of these inputs, None where it is not wanted.
    """
