"""``LSTMState``: who owns h and c between calls."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from .backend import cuda, operators
from .backend.arguments import StateSizes, check_allocated, check_count, described
from .backend.layer_stack import accumulation_dtype


class LSTMState:
    """The resident state of an LSTM for a number of slots: one stream of data each.

    The tensors are allocated once and updated in place, so their addresses stay; they never carry
    an autograd graph. :meth:`StatefulLSTM.allocate_state` and :meth:`StatefulLSTM.new_state` make
    a state. Every change writes h and c in one torch call: after an exception, Ctrl-C for
    example, both are old or both are new.

    Several threads may use one state at the same time, as long as no slot is in two calls at once:
    a call reads and writes the rows of its own slots only. Run no call while the whole state is
    reset, read, written or moved.

    Attributes:
        h: (L*D, S, P), in the layer's dtype.
        c: (L*D, S, H), in float32 for float16 and bfloat16 layers, else in the layer's dtype.
    """

    h: Tensor
    c: Tensor

    def __init__(
        self, sizes: StateSizes, slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        slots = check_count(slots, "slots")
        self._emptied: tuple[int, ...] | None = None
        # A call with hx and a batch of another size may replace a state that only such calls made.
        self.replaceable = False
        # A tensor made under inference_mode could not be updated outside it.
        with torch.inference_mode(False), torch.no_grad():
            self.h = torch.zeros(sizes.LD, slots, sizes.P, dtype=dtype, device=device)
            self.c = torch.zeros(
                sizes.LD, slots, sizes.H, dtype=accumulation_dtype(dtype), device=device
            )
        self._mark_static()

    @property
    def slots(self) -> int:
        """S, the number of streams."""
        return self.h.size(1)

    @property
    def resizable(self) -> bool:
        """Whether a layer's reset of all rows was the last change of the state.

        The next call may then bring a batch of another size. Any write ends that.
        """
        return self._emptied == self._contents()

    def mark_resizable(self) -> None:
        """Says that a layer has just reset all rows."""
        self._emptied = self._contents()

    def mark_used(self, by_slots: bool) -> None:
        """Says that a call has written the state, and whether ``state_indices`` named its slots.

        Versions alone do not tell: compiled code may write without a new one. Nothing is read here,
        on which torch.compile would have to count.
        """
        self._emptied = None
        if by_slots:
            self.replaceable = False

    def _contents(self) -> tuple[int, ...]:
        """Changes when the tensors are written to or replaced."""
        return id(self.h), self.h._version, id(self.c), self.c._version

    def __deepcopy__(self, memo: dict[int, Any]) -> LSTMState:
        new = copy(self)
        memo[id(self)] = new
        with torch.inference_mode(False), torch.no_grad():  # as in __init__
            new.h, new.c = (t.clone() for t in self._hc())
        new._emptied = new._contents() if self.resizable else None
        new._mark_static()
        return new

    def __setstate__(self, contents: dict[str, Any]) -> None:
        self.replaceable = False
        self.__dict__.update(contents)
        self._emptied = None  # it names tensors of the process that pickled the state
        self._mark_static()

    def __repr__(self) -> str:
        return (
            f"LSTMState(slots={self.slots}, h={tuple(self.h.shape)} {self.h.dtype}, "
            f"c={tuple(self.c.shape)} {self.c.dtype}, device={self.h.device})"
        )

    def reset(self, which: Any = None) -> None:
        """Sets slots to zero, in place.

        Args:
            which: None: all; a bool mask (S,); or int32 or int64 indices of slots, each once. An
                empty selection resets nothing.

        Raises:
            TypeError: for another dtype.
            ValueError: for a wrong shape, or a slot named twice (as an integer 0/1 mask names
                slots 0 and 1).
            IndexError: for a slot that does not exist.
        """
        if which is None:
            with torch.no_grad():
                torch._foreach_zero_(self._hc())
            return
        slots = _slots_of(self.select(which, once=True))
        h, c = (t.new_zeros(t.size(0), slots.numel(), t.size(2)) for t in self._hc())
        self._put(slots, h, c)

    def read(self, which: Any = None) -> tuple[Tensor, Tensor]:
        """Copies of h and c.

        Args:
            which: None: all slots; a bool mask (S,); or int32 or int64 indices of n slots, in any
                order, also repeated.

        Returns:
            h (L*D, n, P), c (L*D, n, H), of the slots selected, in that order.

        Raises:
            TypeError: as in :meth:`reset`.
            ValueError: for a wrong shape.
            IndexError: as in :meth:`reset`.
        """
        cuda.raise_slot_error(self.h)
        h, c = self._hc()
        with torch.no_grad():
            if which is None:
                return h.clone(), c.clone()
            slots = self.select(which)
            return h[:, slots], c[:, slots]

    def write(self, hc: tuple[Tensor, Tensor], which: Any = None) -> None:
        """Copies h and c into slots; nothing is written when something does not fit.

        Args:
            hc: h (L*D, n, P), c (L*D, n, H), tensors of any floating dtype and device, or arrays.
            which: None: all slots; a bool mask (S,); or int32 or int64 indices of n slots, each
                once.

        Raises:
            TypeError: for anything but a pair of floating-point tensors or arrays, and as in
                :meth:`reset`.
            ValueError: if the shapes do not fit, or a slot comes twice.
            IndexError: for a slot that does not exist.
        """
        pair = as_pair(hc)
        slots = None if which is None else self.select(which, once=True)
        if slots is not None and slots.dtype == torch.bool:
            slots = slots.nonzero().squeeze(1)
        n = self.slots if slots is None else slots.numel()
        for name, new, own in zip(("h", "c"), pair, self._hc(), strict=True):
            expected = (own.size(0), n, own.size(2))
            if new.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {tuple(new.shape)}")
        check_allocated(pair, ("h", "c"))
        if self.h.is_meta and not pair[0].is_meta:  # it gets its numbers, and a place for them
            self.move(self.h.dtype, pair[0].device)
        # Copies: the pair may be parts of this state, which are written one after the other.
        self._put(slots, pair[0].to(self.h, copy=True), pair[1].to(self.c, copy=True))

    def select(self, which: Any, once: bool = False) -> Tensor:
        """Checks a selection of slots: a bool mask (S,), or int32 or int64 indices (n,).

        Args:
            which: a tensor, an array, a list or a number.
            once: whether an index may come once only.

        Returns:
            The mask, or int64 indices, on the state's device unless that is meta.
        """
        if isinstance(which, Tensor):
            slots = which
        else:
            try:
                slots = torch.as_tensor(which, device="cpu")
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(
                    "slots are selected by a bool mask or by int32 or int64 indices, "
                    f"got {described(which)}"
                ) from error
        check_allocated((slots,), ("the selection",))
        device = slots.device if self.h.is_meta else self.h.device  # or their numbers would be lost
        if slots.dtype == torch.bool:
            if slots.shape != (self.slots,):
                raise ValueError(
                    f"a mask of slots must have shape {(self.slots,)}, got {tuple(slots.shape)}"
                )
            return slots.to(device)
        if slots.dim() == 1 and slots.numel() == 0:  # an empty list has no dtype of its own
            return slots.to(device, torch.int64)
        if slots.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                "slots are selected by a bool mask or by int32 or int64 indices, "
                f"got {described(slots)}"
            )
        if slots.dim() > 1:
            raise ValueError(f"indices of slots must be 1-D, got {slots.dim()}-D")
        slots = slots.reshape(-1).to(torch.int64)
        numbers = slots.tolist()
        wrong = [n for n in numbers if not 0 <= n < self.slots]
        if wrong:
            named = ", ".join(map(str, wrong[:3])) + (", ..." if len(wrong) > 3 else "")
            raise IndexError(f"slots must be 0 to {self.slots - 1}, got {named}")
        if once and len(set(numbers)) != len(numbers):
            raise ValueError(
                f"each slot may be named once, got {numbers}. "
                "A 0/1 mask must be of dtype bool: mask.bool()"
            )
        return slots.to(device)

    def _hc(self) -> list[Tensor]:
        check_allocated((self.h, self.c), ("the state's h", "the state's c"))
        return [self.h, self.c]

    def _put(self, slots: Tensor | None, h: Tensor, c: Tensor, ends_call: bool = False) -> None:
        """Writes rows of h and c by one torch call.

        Between two calls an exception may come, from a signal handler for one, and h would be new
        and c old.

        Args:
            slots: (n,), -1 writes nothing; None: all.
            h: (L*D, n, P), of any dtype, on the state's device.
            c: (L*D, n, H), of any dtype, on the state's device.
            ends_call: whether a call leaves its final state: not inside a backward pass.
        """
        with torch.no_grad():
            h = h if h.dtype == self.h.dtype else h.to(self.h.dtype)
            c = c if c.dtype == self.c.dtype else c.to(self.c.dtype)
            if self._by_operator(slots):
                write = operators.state_scatter_ if ends_call else operators.state_write_
                write(_bits(self.h), _bits(self.c), slots, _bits(h), _bits(c))
            elif slots is None:
                torch._foreach_copy_([self.h, self.c], [h, c])
            elif self.h.is_meta:
                pass  # no numbers, and none in the slots either
            else:  # only rows of these slots: other threads may be writing other slots
                rows = [(b, slot) for b, slot in enumerate(slots.tolist()) if slot >= 0]
                if rows:
                    torch._foreach_copy_(
                        [own[:, slot] for own in self._hc() for _, slot in rows],
                        [new[:, b] for new in (h, c) for b, _ in rows],
                    )

    # The methods below are for the layer that owns the state.

    def fits(self, sizes: StateSizes, dtype: torch.dtype, device: torch.device) -> str | None:
        """None, or the difference that makes this state useless for such a layer.

        A state on meta has no numbers yet: it fits every device, and follows by :meth:`move`.
        """
        expected = ((sizes.P, dtype), (sizes.H, accumulation_dtype(dtype)))
        for name, t, (size, kind) in zip(("h", "c"), self._hc(), expected, strict=True):
            ld, _, width = t.shape
            if ld != sizes.LD or width != size:
                return f"{name} is {tuple(t.shape)}, expected ({sizes.LD}, slots, {size})"
            if t.dtype != kind:
                return f"{name} is {t.dtype}, expected {kind}"
            if t.device != device and not t.is_meta:
                return f"{name} is on {t.device}, expected {device}"
        return None

    def move(self, dtype: torch.dtype, device: torch.device) -> None:
        """Follows the layer to another dtype or device; without a change its address stays."""
        self._hc()  # refuses freed storage
        with torch.inference_mode(False), torch.no_grad():
            # A meta tensor has no numbers to bring along.
            new = torch.zeros_like if self.h.is_meta and device.type != "meta" else torch.Tensor.to
            h = new(self.h, device=device, dtype=dtype)
            c = new(self.c, device=device, dtype=accumulation_dtype(dtype))
        resizable = self.resizable
        self.h, self.c = h, c  # together, when nothing can fail any more
        self._emptied = self._contents() if resizable else None
        self._mark_static()

    def _mark_static(self) -> None:
        """Tells torch.compile that the addresses stay; else it leaves CUDA graphs alone.

        As torch._dynamo.mark_static_address does, which takes two seconds to import.
        """
        for t in (self.h, self.c):
            t._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]

    def start(self, state_indices: Tensor | None, bidirectional: bool) -> tuple[Tensor, Tensor]:
        """Copies of h and c for a call to start from, (L*D, B, P) and (L*D, B, H).

        Copies, since backward still needs them when the state has moved on. A reverse direction
        starts from zero.
        """
        compiled = is_compiling() and torch.is_grad_enabled()
        with torch.no_grad():
            if self._by_operator(state_indices):
                h0, c0 = operators.state_gather(_bits(self.h), _bits(self.c), state_indices)
                h0 = h0.view(self.h.dtype)
            elif state_indices is None:
                h, c = self._hc()
                h0, c0 = h.clone(), c.clone()
            else:
                padding = (state_indices < 0).view(1, -1, 1)
                slots = state_indices.clamp(min=0)
                h0 = self.h[:, slots].masked_fill(padding, 0)
                c0 = self.c[:, slots].masked_fill(padding, 0)
            if compiled and not self._by_operator(state_indices):
                h0, c0 = operators.state_copy(h0), operators.state_copy(c0)
            if bidirectional:
                h0[1::2] = 0
                c0[1::2] = 0
            return h0, c0

    def finish(self, state_indices: Tensor | None, h_n: Tensor, c_n: Tensor) -> None:
        """Takes a call's final h (L*D, B, P) and c (L*D, B, H); padding rows write nothing."""
        self._put(state_indices, h_n, c_n, ends_call=True)

    def _by_operator(self, slots: Tensor | None) -> bool:
        """Whether the compiled operators move rows: with slots, and always under torch.compile.

        For a plain copy see :func:`copy_of_state`.
        """
        if slots is None and not is_compiling():
            return False
        if cuda.on_gpu(self.h):
            return cuda.why_not(self.h) is None
        return (
            operators.missing is None and self.h.is_cpu and _bits(self.h).dtype in operators.DTYPES
        )


def as_pair(hc: Any) -> tuple[Tensor, Tensor]:
    """A pair (h, c) of floating-point tensors; arrays become tensors."""
    if isinstance(hc, (tuple, list)) and len(hc) == 2:
        h, c = (torch.from_numpy(t) if isinstance(t, np.ndarray) else t for t in hc)
        dense = all(isinstance(t, Tensor) and t.layout == torch.strided for t in (h, c))
        if dense and h.is_floating_point() and c.is_floating_point():
            return h, c
    raise TypeError(
        f"expected a tuple of two dense floating-point tensors (h, c), got {described(hc)}"
    )


def _slots_of(selected: Tensor) -> Tensor:
    """Indices of a selection; a mask's unselected slots may be -1, so that no device is asked."""
    if selected.dtype != torch.bool:
        return selected
    if selected.is_cpu and not is_compiling():
        return selected.nonzero().squeeze(1)
    every = torch.arange(selected.numel(), device=selected.device)
    return torch.where(selected, every, -1)


def _bits(t: Tensor) -> Tensor:
    """float16 on the CPU as bfloat16: the CPU's operators, which only move it, do not know it."""
    move_as_bfloat16 = t.dtype == torch.float16 and t.is_cpu and not cuda.on_gpu(t)
    return t.view(torch.bfloat16) if move_as_bfloat16 else t


def copy_of_state(t: Tensor) -> Tensor:
    """A copy of a tensor that may be a part of a state, which moves on before backward needs it.

    Compiled code may make a plain copy again in backward, too late. A tensor with gradients is no
    state.
    """
    if is_compiling() and torch.is_grad_enabled() and not t.requires_grad:
        return operators.state_copy(t)
    return t.clone()
