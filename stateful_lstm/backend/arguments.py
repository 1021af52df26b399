"""Errors before effects: checks of every argument, before any computation or change of state.

An error has the type and, where ``torch.nn.LSTM`` has the same one, the words of torch. The checks
return a :class:`Call`: the arguments in one layout, time-major and batched. The rest of the package
sees no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from . import operators
from .layer_stack import accumulation_dtype


class Config(NamedTuple):
    """The options of a layer or call that are not tensors."""

    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    recurrent_dropout: float

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def drops(self) -> bool:
        """Whether a call in training has some dropout."""
        return bool(self.recurrent_dropout or (self.dropout and self.num_layers > 1))


class StateSizes(NamedTuple):
    """The sizes of h (L*D, B, P) and c (L*D, B, H) but for B."""

    LD: int
    P: int
    H: int


@dataclass(slots=True)
class Call:
    """The checked arguments of a call, time-major and batched."""

    x: Tensor  # (T, B, I)
    h0: Tensor  # (L*D, B, P)
    c0: Tensor  # (L*D, B, H)
    reset: Tensor | None  # (T, B) bool
    lengths: Tensor | None  # (B,) int64
    sizes: StateSizes
    batched: bool
    batch_first: bool
    c_dtype: torch.dtype  # c_n is returned no narrower: that of c_0 as it came, without hx of x

    def results(self, y: Tensor, h_n: Tensor, c_n: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Time-major results in the layout that the caller's arguments had.

        c_n, which comes in the dtype of sums, is returned in the wider one of h_n's dtype and
        :attr:`c_dtype`.
        """
        dtype = torch.promote_types(h_n.dtype, self.c_dtype)
        if c_n.dtype != dtype:
            c_n = c_n.to(dtype)
        if not self.batched:
            return y.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return (y.transpose(0, 1) if self.batch_first else y), (h_n, c_n)


def prepare(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    config: Config,
    reset_mask: Tensor | None,
    lengths: Tensor | None,
) -> Call:
    """Checks everything that a pure call takes; ``hx=None`` becomes zeros."""
    check_config(config)
    check_weights(weights, config)
    names = [f"weights[{k}]" for k in range(len(weights))]
    check_memory(weights, names, input, hx, reset_mask, lengths, None)
    x, batched = check_input(input, weights[0], config.batch_first)
    T, B = x.shape[:2]
    sizes = state_sizes(weights, config)
    hidden = check_hx(hx, sizes, B, x, batched)
    given = c_dtype(hidden, x)
    if hidden is None:
        hidden = zero_state(sizes, B, x)
    reset = check_reset_mask(reset_mask, T, B, x.device, batched, config.batch_first)
    checked_lengths = check_lengths(lengths, T, B, x.device)
    return Call(x, *hidden, reset, checked_lengths, sizes, batched, config.batch_first, given)


def state_sizes(weights: Sequence[Tensor], config: Config) -> StateSizes:
    """Sizes of the state that these weights work on."""
    return StateSizes(
        config.num_layers * config.directions, weights[1].size(1), weights[1].size(0) // 4
    )


def zero_state(sizes: StateSizes, B: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for h and c, in the dtypes that layers take."""
    h = like.new_zeros(sizes.LD, B, sizes.P)
    c = like.new_zeros(sizes.LD, B, sizes.H, dtype=accumulation_dtype(like.dtype))
    return h, c


def described(given: object) -> str:
    """A short description of a value for an error: its type, dtype and shape."""
    if given is None or isinstance(given, (bool, int, float, str)):
        return repr(given)
    if isinstance(given, np.ndarray):
        return f"a numpy array of {given.dtype} and shape {given.shape}"
    if isinstance(given, Tensor):
        return f"a tensor of {given.dtype} and shape {tuple(given.shape)}"
    if isinstance(given, type):
        return f"the class {given.__name__}"
    kind, shape = type(given).__name__, getattr(given, "shape", None)
    if isinstance(given, (tuple, list)):
        some = [*map(described, given[:4]), *(["..."] if len(given) > 4 else [])]
        return f"a {kind} of ({', '.join(some)})"
    return f"a {kind}" if shape is None else f"a {kind} of shape {tuple(shape)}"


def check_count(n: Any, name: str) -> int:
    """A number of things, 0 or more, as an int; NumPy's integers count."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 0:
        raise ValueError(f"{name} must be a whole number, 0 or more, got {n!r}")
    return int(n)


def as_int(n: Any) -> Any:
    """NumPy's integers as an int; anything else as it is, for ``nn.LSTM``'s own checks."""
    return int(n) if isinstance(n, Integral) and not isinstance(n, (bool, int)) else n


def check_probability(p: object, name: str) -> None:
    """A dropout probability in [0, 1): 1 would leave nothing."""
    if isinstance(p, bool) or not isinstance(p, Real) or not 0 <= float(p) < 1:
        raise ValueError(f"{name} should be a number in range [0, 1), got {p!r}")


def check_allocated(tensors: tuple[object, ...], names: Sequence[str]) -> None:
    """Refuses tensors whose storage was freed: most of torch's own operators crash on them.

    ``tensors`` may also hold other objects, such as None.
    """
    if torch.compiler.is_compiling():
        return
    k = operators.first_freed(tensors)
    if k >= 0:
        raise RuntimeError(f"{names[k]} has no memory: its storage was freed")


def check_memory(
    weights: Sequence[Tensor],
    names: Sequence[str],
    input: object,
    hx: object,
    reset_mask: object,
    lengths: object,
    state_indices: object,
) -> None:
    """Refuses any argument whose storage was freed. The other checks follow."""
    h, c = hx if isinstance(hx, (tuple, list)) and len(hx) == 2 else (None, None)
    check_allocated(
        (input, h, c, reset_mask, lengths, state_indices, *weights),
        ("input", "hx[0]", "hx[1]", "reset_mask", "lengths", "state_indices", *names),
    )


def check_config(config: Config) -> None:
    """Checks ranges. Types are the type checker's work."""
    if config.num_layers < 1:
        raise ValueError(f"num_layers must be greater than zero, got {config.num_layers}")
    if config.proj_size < 0:
        raise ValueError(f"proj_size must be zero or positive, got {config.proj_size}")
    if not 0 <= config.dropout <= 1:
        raise ValueError(f"dropout should be a number in range [0, 1], got {config.dropout}")
    check_probability(config.recurrent_dropout, "recurrent_dropout")


def check_weights(weights: Sequence[Tensor], config: Config) -> None:
    """The flat list in ``nn.LSTM``'s parameter order, of one dtype and device."""
    names = _weight_kinds(config)
    each = len(names)
    expected = config.num_layers * config.directions * each
    if len(weights) != expected:
        raise ValueError(
            f"expected {expected} weights ({config.num_layers} layers x {config.directions} "
            f"directions x {each}), got {len(weights)}"
        )
    for k, weight in enumerate(weights):
        if not isinstance(weight, Tensor):
            raise TypeError(f"weights[{k}] must be a Tensor, got {described(weight)}")
    check_alike(weights, lambda: [f"weights[{k}]" for k in range(len(weights))])
    first = weights[0]
    if first.dim() != 2 or first.size(0) % 4 or 0 in first.shape:
        raise RuntimeError(f"weight_ih must be (4H, input_size), got {tuple(first.shape)}")
    if not first.is_floating_point():
        raise TypeError(f"weights must be floating-point tensors, got {first.dtype}")
    H = first.size(0) // 4
    P = config.proj_size or H
    for k, weight in enumerate(weights):
        layer, name = k // each // config.directions, names[k % each]
        columns = {
            "weight_ih": (4 * H, first.size(1) if layer == 0 else P * config.directions),
            "weight_hh": (4 * H, P),
            "weight_hr": (P, H),
        }
        shape = columns.get(name, (4 * H,))
        if weight.shape != shape:
            raise RuntimeError(
                f"weights[{k}] ({name} of layer {layer}): expected shape {shape}, "
                f"got {tuple(weight.shape)}"
            )


def check_input(input: Tensor, weight_ih: Tensor, batch_first: bool) -> tuple[Tensor, bool]:
    """Returns the input as (T, B, I) and whether it was batched."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a Tensor or a PackedSequence, got {described(input)}")
    if input.is_nested:
        raise TypeError("input must not be a nested tensor: give a PackedSequence, or lengths=")
    if input.dim() not in (2, 3):
        raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
    check_features(input, weight_ih)
    if input.dim() == 2:
        return input.unsqueeze(1), False
    return (input.transpose(0, 1) if batch_first else input), True


def _weight_kinds(config: Config) -> list[str]:
    """The weights of one layer in one direction, in ``nn.LSTM``'s order."""
    kinds = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * config.bias
    return kinds + ["weight_hr"] * (config.proj_size > 0)


def weight_names(config: Config) -> list[str]:
    """``nn.LSTM``'s names of the flat list."""
    kinds = _weight_kinds(config)
    ends = ("", "_reverse")[: config.directions]
    return [f"{k}_l{n}{end}" for n in range(config.num_layers) for end in ends for k in kinds]


def check_alike(weights: Sequence[Tensor], names: Callable[[], Sequence[str]]) -> None:
    """All weights have one device, and one dtype, except that autocast mixes all but float64.

    With one weight on meta among CPU tensors, torch would return uninitialised results.
    """
    first = weights[0]
    dtype = first.dtype
    for weight in weights:  # most calls pass, and need no names
        if not (weight.is_cpu and weight.dtype is dtype):
            break
    else:
        return
    for weight, name in zip(weights, names(), strict=False):
        castable = torch.float64 not in (weight.dtype, first.dtype)
        mixes = weight.dtype != first.dtype and not (castable and autocast_enabled(first))
        if weight.device != first.device or mixes:
            raise RuntimeError(
                f"{name} is {weight.dtype} on {weight.device}, "
                f"{names()[0]} is {first.dtype} on {first.device}"
            )


# Asked once: torch.compile of torch 2.11 cannot trace the question.
_AUTOCAST_DEVICES = frozenset(
    kind
    for kind in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla", "privateuseone")
    if torch.amp.is_autocast_available(kind)
)


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on for the tensor's device; some devices ("meta") know none."""
    if x.is_cpu:
        return torch.is_autocast_enabled("cpu")
    kind = x.device.type
    return kind in _AUTOCAST_DEVICES and torch.is_autocast_enabled(kind)


def _same_device(a: Tensor, b: Tensor) -> bool:
    # torch makes an object for each device, which takes longer than to ask twice for the CPU.
    return (a.is_cpu and b.is_cpu) or a.device == b.device


def check_features(input: Tensor, weight_ih: Tensor) -> None:
    """Dtype, device and last size of an input."""
    if input.dtype != weight_ih.dtype:
        # Autocast leaves float64 alone, so that it mixes with nothing else.
        castable = torch.float64 not in (input.dtype, weight_ih.dtype)
        if not (castable and autocast_enabled(input)):
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype "
                f"({weight_ih.dtype}). Convert input: input.to({weight_ih.dtype}), or convert "
                f"model: model.to({input.dtype})"
            )
    if not _same_device(input, weight_ih):
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, found input tensor at "
            f"{input.device} and parameter tensor at {weight_ih.device}"
        )
    if input.size(-1) != weight_ih.size(1):
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {weight_ih.size(1)}, "
            f"got {input.size(-1)}"
        )


_NARROW = (torch.float32, torch.float16, torch.bfloat16)  # float64 and float32 hold these


def check_batch_sizes(data: Tensor, batch_sizes: Tensor) -> None:
    """Rows of each step of a packed sequence: 1 or more, never more than in the step before.

    While a program of the call is recorded, the values are not read.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return
    sizes = batch_sizes.tolist()
    falling = all(a >= b for a, b in pairwise(sizes))
    if not sizes or sizes[-1] < 1 or not falling or sum(sizes) != data.size(0):
        raise ValueError(
            f"a PackedSequence of {data.size(0)} elements needs batch_sizes that add up to as "
            f"many, never rise and are 1 or more, got {sizes[:8]}{'...' if sizes[8:] else ''}"
        )


def check_hx(
    hx: tuple[Tensor, Tensor] | None, sizes: StateSizes, B: int, x: Tensor, batched: bool
) -> tuple[Tensor, Tensor] | None:
    """A pair (h_0, c_0) on the input's device.

    h_0 has the input's dtype, c_0 any that the dtype of sums holds. Autocast gives h_0 its dtype.
    """
    if hx is None:
        return None
    if (
        not isinstance(hx, (tuple, list))
        or len(hx) != 2
        or not (isinstance(hx[0], Tensor) and isinstance(hx[1], Tensor))
    ):
        raise TypeError(f"hx must be a tuple of two tensors (h_0, c_0), got {described(hx)}")
    h, c = hx
    if (  # most calls pass, and need no more
        batched
        and h.shape == (sizes.LD, B, sizes.P)
        and c.shape == (sizes.LD, B, sizes.H)
        and h.dtype is x.dtype
        and c.dtype is x.dtype
        and h.is_cpu
        and c.is_cpu
        and x.is_cpu
    ):
        return h, c
    dims = 3 if batched else 2
    if h.dim() != dims or c.dim() != dims:
        raise RuntimeError(
            f"For {'batched 3-D' if batched else 'unbatched 2-D'} input, hx and cx should also be "
            f"{dims}-D but got ({h.dim()}-D, {c.dim()}-D) tensors"
        )
    if not batched:
        h, c = h.unsqueeze(1), c.unsqueeze(1)
    for k, (state, size) in enumerate(((h, sizes.P), (c, sizes.H))):
        expected = (sizes.LD, B, size)
        if state.shape != expected:
            raise RuntimeError(f"Expected hidden[{k}] size {expected}, got {list(state.shape)}")
        if not _same_device(state, x):
            raise RuntimeError(
                "Input and hidden tensors are not at the same device, found input tensor at "
                f"{x.device} and hidden[{k}] at {state.device}"
            )
    if h.dtype == c.dtype == x.dtype:
        return h, c
    # The dtype of sums, in which c is kept, holds every narrower one without loss. h is a factor of
    # products: it has the other factor's dtype, or autocast gives it that, but for float64.
    held = dict.fromkeys((accumulation_dtype(x.dtype), *_NARROW))
    mixes = x.dtype != torch.float64 and autocast_enabled(x)
    for k, (state, allowed) in enumerate(((h, held if mixes else (x.dtype,)), (c, held))):
        if state.dtype not in allowed:
            names = " or ".join(map(str, allowed))
            raise RuntimeError(f"Expected hidden[{k}] dtype {names}, got {state.dtype}")
    return h, c


def c_dtype(hidden: tuple[Tensor, Tensor] | None, x: Tensor) -> torch.dtype:
    """The caller's dtype of c: that of hx, or of the zeros that ``nn.LSTM`` makes."""
    return x.dtype if hidden is None else hidden[1].dtype


def check_reset_mask(
    reset_mask: Tensor | None,
    T: int,
    B: int,
    device: torch.device,
    batched: bool,
    batch_first: bool,
) -> Tensor | None:
    """Returns the mask as (T, B)."""
    if reset_mask is None:
        return None
    if not isinstance(reset_mask, Tensor) or reset_mask.dtype != torch.bool:
        raise TypeError(f"reset_mask must be a bool tensor, got {described(reset_mask)}")
    expected = ((B, T) if batch_first else (T, B)) if batched else (T,)
    if reset_mask.shape != expected:
        raise ValueError(f"reset_mask must have shape {expected}, got {tuple(reset_mask.shape)}")
    if reset_mask.device != device:
        raise RuntimeError(f"reset_mask must be on {device}, got {reset_mask.device}")
    if not batched:
        return reset_mask.unsqueeze(1)
    return reset_mask.transpose(0, 1) if batch_first else reset_mask


def check_lengths(lengths: Tensor | None, T: int, B: int, device: torch.device) -> Tensor | None:
    """Returns the lengths as int64 on the input's device.

    It checks the values on the CPU, where that needs no synchronisation; other devices' kernels
    guard themselves. Under vmap there are no values to read.
    """
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"lengths must be an int32 or int64 tensor, got {described(lengths)}")
    if lengths.shape != (B,):
        raise ValueError(f"lengths must have shape {(B,)}, got {tuple(lengths.shape)}")
    hidden = torch.compiler.is_compiling() or is_functorch_wrapped_tensor(lengths)
    if lengths.device.type == "cpu" and not hidden:
        for row, length in enumerate(lengths.tolist()):
            if not 0 <= length <= T:
                raise ValueError(f"lengths[{row}] is {length}, expected 0 to T = {T}")
    return lengths.to(device, torch.int64, non_blocking=True)


def check_state_indices(indices: Tensor, B: int, slots: int, device: torch.device) -> bool:
    """Returns whether some row is padding (-1); True where only the device knows."""
    if not isinstance(indices, Tensor) or indices.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"state_indices must be an int32 or int64 tensor, got {described(indices)}")
    if indices.shape != (B,):
        raise ValueError(f"state_indices must have shape {(B,)}, got {tuple(indices.shape)}")
    if indices.device != device:
        raise RuntimeError(f"state_indices must be on {device}, got {indices.device}")
    if indices.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    rows = indices.tolist()
    taken = set()
    for row, slot in enumerate(rows):
        if not -1 <= slot < slots:
            raise IndexError(f"state_indices[{row}] is {slot}, expected -1 to {slots - 1}")
        if slot >= 0 and slot in taken:
            raise ValueError(f"state_indices names slot {slot} twice: rows would race")
        taken.add(slot)
    return -1 in taken
