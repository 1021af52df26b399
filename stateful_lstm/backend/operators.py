"""The compiled operators: loads the library and gives each operator a typed function.

The library registers its operators in C++ (``csrc/bindings/operators_cpu.cpp``) and is a Python
module as well, for the calls that must be quicker than an operator: :func:`fastpath_inference`,
:func:`fastpath_forward` and :func:`fastpath_gradients` (``csrc/bindings/fastpath_module.cpp``).
Importing this file never compiles anything. Where the library is not built, :data:`missing` says
why and the rest of the package works on the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch._C import _increment_version as mark_changed
from torch.autograd import forward_ad

from .fake_operators import register_fakes

DTYPES = (torch.float32, torch.float64, torch.bfloat16)  # of the CPU kernels


def _first_freed(tensors: tuple[object, ...]) -> int:
    """The place of the first tensor whose storage was freed, or -1, passing over other objects.

    FSDP, for example, frees weights between calls. Such a tensor has a shape but no numbers, and
    its address is its offset in the storage. The library has a quicker version of this function.
    """
    if torch._C._are_functorch_transforms_active():
        return -1  # their tensors have no address
    for k, t in enumerate(tensors):
        if not isinstance(t, Tensor) or type(t) not in (Tensor, torch.nn.Parameter):
            continue
        if t.layout != torch.strided:
            continue
        at_offset = t.data_ptr() == t.storage_offset() * t.itemsize
        if at_offset and t.numel() > 0 and not t.is_meta and not t._is_zerotensor():
            return k
    return -1


def _load() -> str | None:
    """Loads the library. Returns None, or why there is none."""
    global fastpath_inference, fastpath_forward, fastpath_gradients, first_freed
    path = Path(__file__).parents[1] / "_C.abi3.so"
    if not path.exists():
        return (
            f"the compiled library {path.name} is not beside the package: build it with "
            "`make build`, or install with `pip install --no-build-isolation .`"
        )
    try:
        from .. import _C
    except ImportError as error:
        return f"the compiled library does not load with torch {torch.__version__}: {error}"
    backward_pass = torch._C._current_graph_task_id  # of the one that runs here, or -1
    # Functions that tell of modes in which torch must see the operator, and the answer without one.
    watchers = (
        (torch._C._autograd._profiler_enabled, False),
        (torch._C._len_torch_dispatch_stack, 0),
        (torch._C._are_functorch_transforms_active, False),
        (torch._C._get_tracing_state, None),
    )
    if _C.setup(Tensor, torch.nn.Parameter, watchers, mark_changed, backward_pass):
        fastpath_inference, fastpath_forward, fastpath_gradients = _C.step, _C.forward, _C.gradients
        first_freed = _C.first_freed
    return None


first_freed: Callable[[tuple[object, ...]], int] = _first_freed
# `lstm_step_`, `lstm_forward` and `lstm_gradients` past the dispatcher, which costs more than a
# step: see _C.pyi. None: unavailable.
fastpath_inference: Callable[..., tuple[Tensor, tuple[Tensor, Tensor]] | None] | None = None
fastpath_forward: Callable[..., tuple[Tensor, ...] | None] | None = None
fastpath_gradients: Callable[..., tuple[Tensor | None, ...] | None] | None = None
missing: str | None = _load()


def transform() -> str | None:
    """The transform around the call that the kernels do not support, or None."""
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return None


def recording() -> str | None:
    """The tool that records the call as a program without this package's Python, or None."""
    if torch.compiler._is_exporting_flag:  # torch 2.11's compiler takes is_exporting() for True
        return "torch.export"
    if not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    return None


def cpu_capability() -> str | None:
    """The instruction set that the CPU kernels use here ("avx2", for one), or None."""
    return None if missing else str(torch.ops.stateful_lstm.cpu_capability())


def cpu_capabilities() -> list[str]:
    """The instruction sets that STATEFUL_LSTM_CPU may name on this machine, best first."""
    return [] if missing else str(torch.ops.stateful_lstm.cpu_capabilities()).split(", ")


def lstm_forward(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    reset_mask: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
    save: int,
    in_place: bool = False,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer in one direction.

    Args:
        x: (T, B, I), in the layer's dtype, as are the weights.
        weight_ih: (4H, I).
        weight_hh: (4H, P).
        bias_ih: (4H,), or None without biases.
        bias_hh: (4H,), or None.
        weight_hr: (P, H), or None without a projection.
        h0: (B, P).
        c0: (B, H), in the dtype of sums.
        reset_mask: (T, B) bool in the order of processing: state zero before that step.
        lengths: (B,) int64. Values of x after a row's end have no effect.
        recurrent_mask: (B, P) multiplies h before the recurrent product.
        reverse: run t from T-1 down to 0.
        save: for backward: 0 nothing, 1 the cells, 2 the cells and the activated gates.
        in_place: whether a short call may read the weights where they lie. That is quicker, but
            adds up in another order, so the last bits of a row's result then depend on T and B.
            On the CPU only.
        tf32: whether float32 may be multiplied as TF32. On CUDA only.

    Returns:
        y (T, B, P), h_n (B, P), c_n (B, H), gates (T, B, 4H), cells (T, B, H). Tensors that
        are not saved have T = 0.
    """
    # The operator's own gradients (autograd.py) are for programs that call it directly. Their
    # Python would cost 20 us here, for nothing.
    to_be_seen = torch.compiler.is_compiling() or recording()
    with nullcontext() if to_be_seen else torch._C._AutoDispatchBelowAutograd():
        out: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = torch.ops.stateful_lstm.lstm_forward(
            x,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            weight_hr,
            h0,
            c0,
            reset_mask,
            lengths,
            recurrent_mask,
            reverse,
            save,
            in_place,
            tf32,
        )
    return out


def lstm_backward(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    gates: Tensor,
    cells: Tensor,
    weight_hh: Tensor,
    weight_hr: Tensor | None,
    c0: Tensor,
    reset_mask: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The recurrence backward: arguments as in :func:`lstm_forward`, gates and cells from it.

    Returns:
        In the dtype of sums: grad_gates (T, B, 4H) of the pre-activations, grad_h0 (B, P),
        grad_c0 (B, H), and with a projection grad_hidden (T, B, P), the whole gradient of each h
        (T = 0 without one).
    """
    out: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.stateful_lstm.lstm_backward(
        grad_y,
        grad_h_n,
        grad_c_n,
        gates,
        cells,
        weight_hh,
        weight_hr,
        c0,
        reset_mask,
        lengths,
        recurrent_mask,
        reverse,
        tf32,
    )
    return out


def lstm_gradients(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    gates: Tensor,
    cells: Tensor,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    weight_hr: Tensor | None,
    reset_mask: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
    sum_ih: Tensor | None,
    sum_hh: Tensor | None,
    sum_bias: Tensor | None,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All of backward but the gradient of ``weight_hr``, on the CPU.

    Arguments as in :func:`lstm_forward` and :func:`lstm_backward`, and:
    ``sum_ih``, ``sum_hh``, ``sum_bias``, gradients of other steps to which those of these steps are
    added, in the dtype of sums: for all that are wanted, or all None.
    ``wanted``, a sum of 1 for the gradient of x, 2 weight_ih, 4 weight_hh, 8 the biases, 16 h0; and
    32 for those of the weights in the layer's dtype, there being no more to add.

    Returns:
        grad_x (T, B, I) in the layer's dtype; in that or the dtype of sums grad_ih (4H, I),
        grad_hh (4H, P), grad_bias (4H,); in the latter grad_h0 (B, P), grad_c0 (B, H), and
        grad_hidden as in :func:`lstm_backward`. Unwanted gradients are empty.
    """
    out: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    out = torch.ops.stateful_lstm.lstm_gradients(
        grad_y,
        grad_h_n,
        grad_c_n,
        gates,
        cells,
        x,
        y,
        h0,
        c0,
        weight_ih,
        weight_hh,
        weight_hr,
        reset_mask,
        lengths,
        recurrent_mask,
        reverse,
        sum_ih,
        sum_hh,
        sum_bias,
        wanted,
    )
    return out


def lstm_gates(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    reset_mask: Tensor | None,
    lengths: Tensor | None,
    recurrent_mask: Tensor | None,
    reverse: bool,
    y: Tensor,
    cells: Tensor,
) -> Tensor:
    """Recomputes the activated gates (T, B, 4H) of a call of :func:`lstm_forward`, on the CPU.

    Arguments as there, and y and cells from its results. The gates are the same except for
    rounding: without a projection two of the four follow from the other two, h and the cells.
    """
    out: Tensor = torch.ops.stateful_lstm.lstm_gates(
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        weight_hr,
        h0,
        c0,
        reset_mask,
        lengths,
        recurrent_mask,
        reverse,
        y,
        cells,
    )
    return out


def lstm_step_(
    x: Tensor,
    weights: Sequence[Tensor],
    h: Tensor,
    c: Tensor,
    state_indices: Tensor | None,
    reset_mask: Tensor | None,
    lengths: Tensor | None,
    bias: bool,
    bidirectional: bool,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step or more of the whole stack, in place on the state: inference only, no gradients.

    Args:
        x: (T, B, I), T >= 1; T = 1 on CUDA.
        weights: the flat list in ``nn.LSTM``'s parameter order.
        h: (L*D, slots, P), updated.
        c: (L*D, slots, H) in the dtype of sums, updated.
        state_indices: (B,) int32 or int64, -1 for padding; None: row b is slot b.
        reset_mask: (T, B) bool.
        lengths: (B,) int64, 0 to T: y is 0 from there on, the state rests. None on CUDA.
        bias: whether the list has biases.
        bidirectional: the reverse direction starts from zero.
        tf32: whether float32 may be multiplied as TF32. On CUDA only.

    Returns:
        y (T, B, D*P), h_n (L*D, B, P), c_n (L*D, B, H), all in the layer's dtype.
    """
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.stateful_lstm.lstm_step_(
        x, weights, h, c, state_indices, reset_mask, lengths, bias, bidirectional, tf32
    )
    _mark_changed(h, c)
    return out


def state_gather(h: Tensor, c: Tensor, state_indices: Tensor | None) -> tuple[Tensor, Tensor]:
    """Copies of slots of a state: h0 (L*D, B, P), c0 (L*D, B, H); zeros for index -1."""
    out: tuple[Tensor, Tensor] = torch.ops.stateful_lstm.state_gather(h, c, state_indices)
    return out


def state_copy(x: Tensor) -> Tensor:
    """A copy of the state that a call starts from, any dtype and device, for torch.compile.

    Compiled code may recompute a plain copy in backward, when the state has moved on. It does not
    recompute the results of this operator.
    """
    if missing:
        raise RuntimeError(f"torch.compile of a stateful layer in training: {missing}")
    out: Tensor = torch.ops.stateful_lstm.state_copy(x)
    return out


def state_scatter_(
    h: Tensor, c: Tensor, state_indices: Tensor | None, h_n: Tensor, c_n: Tensor
) -> None:
    """Writes a call's final rows into slots of a state; rows of index -1 write nothing."""
    torch.ops.stateful_lstm.state_scatter_(h, c, state_indices, h_n, c_n)
    _mark_changed(h, c)


def state_write_(
    h: Tensor, c: Tensor, state_indices: Tensor | None, h_n: Tensor, c_n: Tensor
) -> None:
    """The same for a caller's rows, which may be written inside a backward pass."""
    torch.ops.stateful_lstm.state_write_(h, c, state_indices, h_n, c_n)
    _mark_changed(h, c)


def _mark_changed(h: Tensor, c: Tensor) -> None:
    # A custom operator does not bump the version counter. Without this a graph that saved the state
    # would give wrong gradients, silently.
    if not torch.compiler.is_compiling():
        mark_changed((h, c))


if missing is None:
    register_fakes()
