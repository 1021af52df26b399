"""A call of a layer that carries a state: finds the state, runs the call, leaves the final state.

``module.py`` checks the arguments and owns the state; these functions know no module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import functional
from .backend import arguments, cuda, operators
from .state import LSTMState, copy_of_state


def check_stateless(x: Tensor, state_indices: Tensor | None) -> None:
    """Checks a call that carries no state."""
    if state_indices is not None:
        raise ValueError("state_indices needs a resident state: stateful=True, or state=")
    if x.size(0) == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")


def find_state(
    own: Any,
    x: Tensor,
    sizes: arguments.StateSizes,
    dtype: torch.dtype,
    state_indices: Tensor | None,
    *,
    is_layers_own: bool,
    starts_from_hx: bool,
) -> tuple[LSTMState, bool]:
    """The state that a call carries on, checked, and whether some row is padding.

    Args:
        own: the layer's own state, None before its first call; or the argument ``state``.
        x: (T, B, I).
        sizes: of a state that fits the layer.
        dtype: of the weights.
        state_indices: (B,), or None: row b is slot b.
        is_layers_own: whether ``own`` is the layer's.
        starts_from_hx: whether the call starts from ``hx``.

    Returns:
        ``own``; or a new state, which the layer keeps when the call has succeeded.
    """
    _refuse_where_state_cannot_go()
    cuda.raise_slot_error(x)
    B, padding, follows = x.size(1), False, False
    if own is not None:
        if not isinstance(own, LSTMState):
            raise TypeError(f"state must be an LSTMState, got {arguments.described(own)}")
        misfit = own.fits(sizes, dtype, x.device)
        # A wrapper may give the layer weights of another dtype or device for one call, as FSDP2's
        # mixed precision does. The layer's own state follows.
        follows = bool(misfit) and is_layers_own
        follows = follows and own.fits(sizes, own.h.dtype, own.h.device) is None
        if misfit and not follows:
            raise ValueError(f"this LSTMState does not fit the layer: {misfit}")
    if state_indices is not None:
        if own is None:
            raise ValueError("state_indices needs slots: call allocate_state(slots) first")
        padding = arguments.check_state_indices(state_indices, B, own.slots, x.device)
    elif own is not None and own.slots != B:
        # Compiled code cannot read what was written since a reset.
        replaced = not is_compiling() and (own.resizable or (starts_from_hx and own.replaceable))
        if not is_layers_own or not replaced:
            raise ValueError(_wrong_batch(B, own.slots, is_layers_own))
        own = None
    if own is None:
        own = LSTMState(sizes, B, dtype, x.device)
        own.replaceable = True
    elif own.h.is_meta and not x.is_meta:
        own.move(dtype, x.device)
    elif follows:
        before = own
        own = LSTMState(sizes, before.slots, dtype, x.device)
        own.write(before.read())
        own.replaceable = before.replaceable
    return own, padding


def run(
    call: arguments.Call,
    hidden: tuple[Tensor, Tensor] | None,
    own: LSTMState | None,
    state_indices: Tensor | None,
    padding: bool,
    weights: list[Tensor],
    config: arguments.Config,
    training: bool,
    recompute: str,
    packed_rows: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs a checked call from ``hidden``, else from the state, else from zeros.

    Fills ``call.h0`` and ``call.c0``. The state has the final h and c afterwards.

    Returns:
        y (T, B, D*P), h_n (L*D, B, P), c_n (L*D, B, H) in the dtype of sums.
    """
    if own is not None and hidden is None and _can_step(call, weights, config, training):
        arguments.check_alike(weights, lambda: arguments.weight_names(config))
        stepped = operators.lstm_step_(
            call.x,
            weights,
            own.h,
            own.c,
            state_indices,
            call.reset,
            call.lengths,
            config.bias,
            config.bidirectional,
            cuda.tf32_allowed(call.x),
        )
        own.mark_used(state_indices is not None)
        return stepped
    if padding and state_indices is not None:  # a padding row has no step
        lengths = call.lengths
        if lengths is None:
            lengths = torch.full_like(state_indices, call.x.size(0))
        call.lengths = lengths.to(torch.int64).masked_fill(state_indices < 0, 0)
    if hidden is not None:  # copies: hx may be the state itself, which is written below
        h0, c0 = hidden
        call.h0, call.c0 = (h0, c0) if own is None else (copy_of_state(h0), copy_of_state(c0))
    elif own is not None:
        call.h0, call.c0 = own.start(state_indices, config.bidirectional)
    else:
        call.h0, call.c0 = arguments.zero_state(call.sizes, call.x.size(1), call.x)
    y, h_n, c_n = functional.run(call, weights, config, training, recompute, "auto", packed_rows)
    if own is not None:
        written = state_indices
        if config.bidirectional and hidden is None:
            written = _without_idle_rows(state_indices, call)
        own.finish(written, h_n, c_n)
        own.mark_used(state_indices is not None)
    return y, h_n, c_n


def _can_step(
    call: arguments.Call, weights: list[Tensor], config: arguments.Config, training: bool
) -> bool:
    """Whether ``lstm_step_`` can run the call in place: no gradients, no dropout.

    On CUDA it takes one step, without lengths.
    """
    x = call.x
    if torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in weights)):
        return False
    if x.size(0) == 0:
        return False
    if cuda.on_gpu(x):
        if x.size(0) != 1 or call.lengths is not None or cuda.why_not(x):
            return False
    elif functional.why_not_cpu(x):
        return False
    if training and config.drops:
        return False
    return not arguments.autocast_enabled(x)


def _without_idle_rows(state_indices: Tensor | None, call: arguments.Call) -> Tensor | None:
    """The slots to write: -1 for rows that ran no step, whose state stays.

    Only two directions need it: the reverse direction starts from zeros, which are no state to
    keep.
    """
    T, B = call.x.shape[:2]
    if T > 0 and call.lengths is None:
        return state_indices
    if state_indices is None:
        state_indices = torch.arange(B, device=call.x.device)
    if T == 0 or call.lengths is None:
        return torch.full_like(state_indices, -1)
    return state_indices.masked_fill(call.lengths == 0, -1)


def _wrong_batch(B: int, slots: int, is_layers_own: bool) -> str:
    """Advice for a batch of another size than the state: safe remedies first."""
    advice = (
        f"the batch has {B} rows, the state has {slots} slots. Name the slots of the rows by "
        f"state_indices; or pass a state of its own for this batch, state=layer.new_state({B}); "
        "or use stateful=False where nothing is carried from call to call"
    )
    if is_layers_own:
        advice += (
            f". If the state is no longer needed, call allocate_state({B}) before, or, without "
            "torch.compile, reset_state(): both discard it"
        )
    return advice


def _refuse_where_state_cannot_go() -> None:
    around = operators.transform() or operators.recording()
    if around:
        raise RuntimeError(
            f"{around} cannot carry a resident state: use stateful=False, with hx for the state, "
            f"or the pure function stateful_lstm.lstm"
        )
    # The id of the running backward pass, or -1. torch.utils.checkpoint runs forward again there,
    # from a state that has moved on: the gradients would be wrong, silently.
    if not is_compiling() and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "a stateful layer was run inside a backward pass, as torch.utils.checkpoint does: its "
            "state has moved on since, so the gradients would be wrong. To save memory use "
            "StatefulLSTM(..., recompute='gates' or 'segments') instead of checkpointing"
        )
