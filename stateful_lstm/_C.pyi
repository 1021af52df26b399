# The compiled library's Python side: csrc/bindings/fastpath_module.cpp; each fast path has a file
# beside it.
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

def setup(
    tensor: type[Tensor],
    parameter: type[nn.Parameter],
    watchers: tuple[tuple[Callable[[], object], object], ...],
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

    After None the caller takes the regular path, which works or says what is wrong. The answer is
    None for any argument but a plain dense CPU tensor of the right dtype and shape, and in a mode
    in which torch must see the operator: profiler, tracing, dispatch modes, torch.func. The caller
    looks at grad mode and autocast.

    Args: as of ``operators.lstm_step_``; the weights are found by their names in ``parameters``; x,
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

    Args: as of ``operators.lstm_forward``, without a projection.
    ``save``: keep what backward needs. Without it the weights may be read where they lie.

    Returns: y (T, B, H), h_n (1, B, H) and, in the dtype of sums, c_n (1, B, H); and with ``save``
    gates (T, B, 4H) and cells (T, B, H).
    """

def gradients(
    grad_y: object,
    grad_h_n: object,
    grad_c_n: object,
    x: object,
    weight_ih: object,
    weight_hh: object,
    bias_ih: object,
    bias_hh: object,
    h0: object,
    c0: object,
    reset_mask: object,
    y: object,
    gates: object,
    cells: object,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...] | None:
    """The gradients of a layer, past the dispatcher; or None, no effect, as for :func:`step`.

    Args: the gradients of y, h_n and c_n, or None each; the arguments of :func:`forward`; what it
    returned; and which of x, the five weights (of which weight_hr is absent), h0 and c0 want a
    gradient.

    Returns: the gradients of these eight, None where not wanted.
    """
