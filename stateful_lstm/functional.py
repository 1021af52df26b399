"""``lstm()``: the pure function. It chooses a backend and runs the stack on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from .backend import arguments, cuda, operators
from .backend.autograd import compiled_layer, fastpath_stack, needs_graph, takes_fastpath
from .backend.layer_stack import Layer, accumulation_dtype, run_stack, split_weights
from .backend.reference_layer import reference_layer

BACKENDS = ("auto", "reference", "cpu", "cuda")
RECOMPUTE = ("none", "gates", "segments", "auto")

_KEPT = {"none": "all", "gates": "cells", "segments": "state"}  # ranges.py

_memory_budget = 1 << 30


def set_memory_budget(bytes: int) -> None:
    """Sets the bytes of activations that ``recompute="auto"`` may keep in one call.

    The outputs of all layers count. They are always kept; where they alone exceed the budget,
    "auto" means "segments".

    Args:
        bytes: a positive number; 1 GiB until this is called.

    Raises:
        ValueError: if it is not a positive number.
    """
    global _memory_budget
    if bytes <= 0:
        raise ValueError(f"the memory budget must be a positive number of bytes, got {bytes}")
    _memory_budget = int(bytes)


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    proj_size: int = 0,
    reset_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    recompute: str = "none",
    backend: str = "auto",
    recurrent_dropout: float = 0.0,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A stack of LSTM layers over a sequence: pure, no resident state.

    T steps, B rows, I input size, H hidden size, P size of h (H, or ``proj_size``), L layers,
    D directions.

    Args:
        input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched.
        hx: (h_0 (L*D, B, P), c_0 (L*D, B, H)), without B when unbatched; None: zeros. c_0 may have
            any dtype that the dtype of sums (float32 for float16 and bfloat16) holds; c_n has the
            wider one of its and the input's.
        weights: the flat list in ``nn.LSTM``'s parameter order, all of the input's dtype.
        num_layers: L, the number of stacked layers.
        bias: whether the list has biases.
        batch_first: whether B comes before T in input, output and ``reset_mask``.
        dropout: probability of an element of a lower layer's output being zeroed, in training.
        training: whether the dropouts are on.
        bidirectional: whether D = 2: forward and reverse, side by side in the output.
        proj_size: size of the projected h, 0 for none.
        reset_mask: bool, (T, B), or (B, T) with ``batch_first``, or (T,) unbatched: True where the
            state of the row is zero before the step. In the reverse direction a True at t cuts
            between t-1 and t as well.
        lengths: int32 or int64 (B,), 0 to T: output is 0 from there on, the final state is that
            after the row's last valid step, where the reverse direction starts.
        recompute: what backward recomputes to save memory: "none"; "gates" keeps h and c only;
            "segments" keeps them at about sqrt(T) points; "auto" takes the fastest that fits
            :func:`set_memory_budget`. The reference keeps all activations.
        backend: "auto", "reference", "cpu" or "cuda". "auto" computes float16 on the CPU, for which
            there are no kernels, in float32.
        recurrent_dropout: probability of an entry of h being zeroed before the recurrent product,
            in training; one mask per row for the whole call (Gal & Ghahramani 2016).

    Returns:
        output (T, B, D*P), laid out as the input; (h_n (L*D, B, P), c_n (L*D, B, H)).

    Raises:
        ValueError: as ``nn.LSTM`` raises it, with what was expected and what came.
        RuntimeError: likewise; and if the backend is unavailable, with the reason.
        TypeError: likewise.
    """
    check_recompute(recompute)
    config = arguments.Config(
        num_layers, bias, batch_first, dropout, bidirectional, proj_size, recurrent_dropout
    )
    call = arguments.prepare(input, hx, weights, config, reset_mask, lengths)
    y, h_n, c_n = run(call, weights, config, training, recompute, backend)
    return call.results(y, h_n, c_n)


def run(
    call: arguments.Call,
    weights: Sequence[Tensor],
    config: arguments.Config,
    training: bool,
    recompute: str,
    backend: str = "auto",
    packed_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs a checked call: y (T, B, D*P), h_n (L*D, B, P), c_n (L*D, B, H) in the dtype of sums."""
    if arguments.autocast_enabled(call.x):
        return _under_autocast(call, weights, config, training, recompute, backend, packed_rows)
    if _has_wider_kernels(call.x, backend):
        y, h_n, c_n = _in_dtype(
            torch.float32, call, weights, config, training, recompute, backend, packed_rows
        )
        return y.half(), h_n.half(), c_n
    arguments.check_alike(weights, lambda: arguments.weight_names(config))
    in_graph = None
    if backend == "auto" and takes_fastpath(call, config, training):
        in_graph = needs_graph(call.x, weights, call.h0, call.c0)
        if not in_graph or _what_to_keep(recompute, call) == "all":
            results = fastpath_stack(call, weights, config, in_graph)
            if results is not None:
                return results
    return run_stack(
        _layer(backend, recompute, call, in_graph),
        call.x,
        call.h0,
        call.c0,
        split_weights(weights, config.bias, config.proj_size > 0),
        directions=config.directions,
        dropout=config.dropout,
        recurrent_dropout=config.recurrent_dropout,
        training=training,
        reset=call.reset,
        lengths=call.lengths,
        packed_rows=packed_rows,
    )


def _under_autocast(
    call: arguments.Call,
    weights: Sequence[Tensor],
    config: arguments.Config,
    training: bool,
    recompute: str,
    backend: str,
    packed_rows: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`run` in autocast's dtype; float64 stays, as autocast has it.

    The results have the dtypes that ``nn.LSTM`` returns. Where it runs a kernel (oneDNN's, cuDNN's)
    all of them have autocast's. On the CPU packed sequences and projections go step by step: c then
    keeps its own dtype where that is wider, and so does h, unless a projection makes it.
    """
    device, dtype = call.x.device.type, call.x.dtype
    if dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    by_steps = device == "cpu" and (packed_rows is not None or config.proj_size > 0)
    call.c_dtype = torch.promote_types(dtype, call.c_dtype) if by_steps else dtype
    y, h_n, c_n = _in_dtype(dtype, call, weights, config, training, recompute, backend, packed_rows)
    if config.proj_size > 0:
        return y, h_n, c_n
    return y.to(call.c_dtype), h_n.to(call.c_dtype), c_n


def _in_dtype(
    dtype: torch.dtype,
    call: arguments.Call,
    weights: Sequence[Tensor],
    config: arguments.Config,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`run` in another dtype."""
    arguments.check_alike(weights, lambda: arguments.weight_names(config))  # before the cast
    call.x, call.h0, *weights = (t.to(dtype) for t in (call.x, call.h0, *weights))
    with torch.autocast(call.x.device.type, enabled=False):
        return run(call, weights, config, *others)


def _has_wider_kernels(x: Tensor, backend: str) -> bool:
    """Whether to compute in float32: float16 on the CPU, which has no kernels of its own."""
    return (
        x.dtype == torch.float16
        and x.is_cpu
        and backend == "auto"
        and operators.missing is None
        and operators.transform() is None
    )


def _layer(
    backend: str,
    recompute: str,
    call: arguments.Call,
    in_graph: bool | None,
) -> Layer:
    """The backend's function for one layer."""
    if backend not in BACKENDS:
        raise RuntimeError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    own = "cuda" if cuda.on_gpu(call.x) else "cpu"
    asked = own if backend == "auto" else backend
    why_not = cuda.why_not(call.x) if asked == "cuda" else why_not_cpu(call.x)
    if asked in ("cpu", "cuda") and backend != "auto" and why_not:
        raise RuntimeError(f"backend {backend!r} is unavailable: {why_not}")
    if asked == "reference" or why_not:
        lacking = operators.missing if own == "cpu" else cuda.missing()
        if backend == "auto" and lacking and call.x.device.type in ("cpu", "cuda"):
            _warn_once(f"stateful_lstm runs on its slow reference: {lacking}")
        return reference_layer
    return partial(compiled_layer, keep=_what_to_keep(recompute, call), in_graph=in_graph)


def why_not_cpu(x: Tensor) -> str | None:
    """None if the CPU kernels can run on this input, else why not."""
    if operators.missing:
        return operators.missing
    if x.device.type != "cpu":
        return f"the input is on {x.device}"
    if x.dtype not in operators.DTYPES:
        return f"it has no kernels for {x.dtype}"
    around = operators.transform()
    return f"it does not run under {around}" if around else None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def check_recompute(recompute: str) -> None:
    """One of the four names."""
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute must be one of {', '.join(RECOMPUTE)}, got {recompute!r}")


def _what_to_keep(recompute: str, call: arguments.Call) -> str:
    """The activations that the graph keeps: "all", "cells" or "state" (``ranges.py``)."""
    if recompute == "auto":
        x, sizes = call.x, call.sizes
        T, B = x.shape[:2]
        steps = sizes.LD * T * B
        least = steps * sizes.P * x.dtype.itemsize  # the outputs
        cells = steps * sizes.H * accumulation_dtype(x.dtype).itemsize
        gates = steps * 4 * sizes.H * x.dtype.itemsize
        if least + cells + gates <= _memory_budget:
            recompute = "none"
        else:
            recompute = "gates" if least + cells <= _memory_budget else "segments"
    return _KEPT[recompute]
