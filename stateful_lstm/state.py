"""``LSTMState``: who owns h and c between calls."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from . import cuda, ops
from .checks import StateSizes
from .stack import accumulation_dtype


class LSTMState:
    """The resident state of an LSTM for a number of slots: one stream of data each.

    The tensors are allocated once and updated in place, so their addresses stay; they never carry
    an autograd graph. Made by :meth:`StatefulLSTM.allocate_state` and
    :meth:`StatefulLSTM.new_state`.

    Attributes:
        h: (L*D, S, P), in the layer's dtype.
        c: (L*D, S, H), in float32 for float16 and bfloat16 layers, else in the layer's dtype.
    """

    h: Tensor
    c: Tensor

    def __init__(
        self, sizes: StateSizes, slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 0:
            raise ValueError(f"slots must be a number of rows, 0 or more, got {slots!r}")
        self._emptied: tuple[int, ...] | None = None
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
        """Whether a layer's reset of all rows was the last that happened to the state.

        Its next call may then bring a batch of another size. Any write, by whatever way, ends that.
        """
        return self._emptied == self._contents()

    def mark_resizable(self) -> None:
        """Says that a layer has just reset all rows."""
        self._emptied = self._contents()

    def _contents(self) -> tuple[int, ...]:
        """Changes when the tensors are written to or replaced."""
        return id(self.h), self.h._version, id(self.c), self.c._version

    def __deepcopy__(self, memo: dict[int, Any]) -> LSTMState:
        new = copy(self)
        memo[id(self)] = new
        with torch.inference_mode(False), torch.no_grad():  # as in __init__
            new.h, new.c = self.h.clone(), self.c.clone()
        new._emptied = new._contents() if self.resizable else None
        new._mark_static()
        return new

    def __repr__(self) -> str:
        return (
            f"LSTMState(slots={self.slots}, h={tuple(self.h.shape)} {self.h.dtype}, "
            f"c={tuple(self.c.shape)} {self.c.dtype}, device={self.h.device})"
        )

    def reset(self, which: Any = None) -> None:
        """Sets slots to zero, in place.

        Args:
            which: None: all; a bool mask (S,); or int64 indices of slots.

        Raises:
            TypeError: for another dtype (an integer 0/1 mask would name slots 0 and 1).
            ValueError: for a wrong shape.
            IndexError: for a slot that is not there.
        """
        with torch.no_grad():
            if which is None:
                self.h.zero_()
                self.c.zero_()
                return
            slots = self.select(which)
            if slots.dtype == torch.bool:
                mask = slots.view(1, -1, 1)
                self.h.masked_fill_(mask, 0)
                self.c.masked_fill_(mask, 0)
            else:
                self.h.index_fill_(1, slots, 0)
                self.c.index_fill_(1, slots, 0)

    def read(self, which: Any = None) -> tuple[Tensor, Tensor]:
        """Copies of h and c.

        Args:
            which: None: all slots; a bool mask (S,); or int64 indices of n slots.

        Returns:
            h (L*D, n, P), c (L*D, n, H), of the slots selected, in that order.

        Raises:
            TypeError: as in :meth:`reset`.
            ValueError: as in :meth:`reset`.
            IndexError: as in :meth:`reset`.
        """
        cuda.raise_slot_error(self.h)
        with torch.no_grad():
            if which is None:
                return self.h.clone(), self.c.clone()
            slots = self.select(which)
            return self.h[:, slots], self.c[:, slots]

    def write(self, hc: tuple[Tensor, Tensor], which: Any = None) -> None:
        """Copies h and c into slots; nothing is written when something does not fit.

        Args:
            hc: h (L*D, n, P), c (L*D, n, H), of any floating dtype and device.
            which: None: all slots; a bool mask (S,); or int64 indices of n slots, each once.

        Raises:
            TypeError: if it is not a pair of floating-point tensors, and as in :meth:`reset`.
            ValueError: if the shapes do not fit, or a slot comes twice.
            IndexError: for a slot that is not there.
        """
        if (
            not isinstance(hc, (tuple, list))
            or len(hc) != 2
            or not all(isinstance(t, Tensor) and t.is_floating_point() for t in hc)
        ):
            raise TypeError(f"expected a tuple of two floating-point tensors (h, c), got {hc!r}")
        slots = None if which is None else self.select(which)
        if slots is not None and slots.dtype == torch.bool:
            slots = slots.nonzero().squeeze(1)
        elif slots is not None and slots.unique().numel() != slots.numel():
            raise ValueError(f"each slot can be written once, got {slots.tolist()}")
        n = self.slots if slots is None else slots.numel()
        for name, new, own in zip(("h", "c"), hc, (self.h, self.c), strict=True):
            expected = (own.size(0), n, own.size(2))
            if new.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {tuple(new.shape)}")
        with torch.no_grad():
            for new, own in zip(hc, (self.h, self.c), strict=True):
                if slots is None:
                    own.copy_(new)
                else:
                    own.index_copy_(1, slots, new.to(own))

    def select(self, which: Any) -> Tensor:
        """Checks what the other methods take: a bool mask (S,) or int64 indices (n,).

        Returns:
            The same as a tensor on the state's device.
        """
        slots = torch.as_tensor(which, device=self.h.device)
        if slots.dtype == torch.bool:
            if slots.shape != (self.slots,):
                raise ValueError(
                    f"a mask of slots must have shape {(self.slots,)}, got {tuple(slots.shape)}"
                )
        elif slots.dtype == torch.int64:
            if slots.dim() > 1:
                raise ValueError(f"indices of slots must be 1-D, got {slots.dim()}-D")
            slots = slots.reshape(-1)
            if slots.numel() and (int(slots.min()) < 0 or int(slots.max()) >= self.slots):
                raise IndexError(
                    f"slots must be 0 to {self.slots - 1}, got {int(slots.min())} to "
                    f"{int(slots.max())}"
                )
        else:
            raise TypeError(
                f"slots are selected by a bool mask or int64 indices, got {slots.dtype}"
            )
        return slots

    # What follows is for the layer that the state belongs to.

    def fits(self, sizes: StateSizes, dtype: torch.dtype, device: torch.device) -> str | None:
        """None, or what makes this state useless for such a layer."""
        expected = ((sizes.LD, sizes.P, dtype), (sizes.LD, sizes.H, accumulation_dtype(dtype)))
        for name, t, (ld, size, kind) in zip(("h", "c"), (self.h, self.c), expected, strict=True):
            if (t.size(0), t.size(2)) != (ld, size):
                return f"{name} is {tuple(t.shape)}, expected ({ld}, slots, {size})"
            if t.dtype != kind:
                return f"{name} is {t.dtype}, expected {kind}"
            if t.device != device:
                return f"{name} is on {t.device}, expected {device}"
        return None

    def move(self, dtype: torch.dtype, device: torch.device) -> None:
        """Follows the layer to another dtype or device; stays where it is if there is none."""
        with torch.inference_mode(False), torch.no_grad():
            # A meta tensor has no numbers to bring along.
            new = torch.zeros_like if self.h.is_meta and device.type != "meta" else torch.Tensor.to
            self.h = new(self.h, device=device, dtype=dtype)
            self.c = new(self.c, device=device, dtype=accumulation_dtype(dtype))
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
        compiled = torch.compiler.is_compiling() and torch.is_grad_enabled()
        with torch.no_grad():
            if self._by_operator(state_indices):
                h0, c0 = ops.state_gather(self.h, self.c, state_indices)
            elif state_indices is None:
                h0, c0 = self.read()
            else:
                padding = (state_indices < 0).view(1, -1, 1)
                slots = state_indices.clamp(min=0)
                h0 = self.h[:, slots].masked_fill(padding, 0)
                c0 = self.c[:, slots].masked_fill(padding, 0)
            if compiled and not self._by_operator(state_indices):
                h0, c0 = ops.state_copy(h0), ops.state_copy(c0)
            if bidirectional:
                h0[1::2] = 0
                c0[1::2] = 0
            return h0, c0

    def finish(self, state_indices: Tensor | None, h_n: Tensor, c_n: Tensor) -> None:
        """Takes a call's final h (L*D, B, P) and c (L*D, B, H); padding rows write nothing."""
        with torch.no_grad():
            h_n, c_n = h_n.to(self.h.dtype), c_n.to(self.c.dtype)
            if self._by_operator(state_indices):
                ops.state_scatter_(self.h, self.c, state_indices, h_n, c_n)
            elif state_indices is None:
                self.h.copy_(h_n)
                self.c.copy_(c_n)
            else:
                live = (state_indices >= 0).nonzero().squeeze(1)
                self.h[:, state_indices[live]] = h_n[:, live]
                self.c[:, state_indices[live]] = c_n[:, live]

    def _by_operator(self, state_indices: Tensor | None) -> bool:
        """Whether the compiled operators move rows: with slots, and always under torch.compile.

        For a plain copy see :func:`copy_of_state`.
        """
        if state_indices is None and not torch.compiler.is_compiling():
            return False
        if cuda.on_gpu(self.h):
            return cuda.why_not(self.h) is None
        return ops.missing is None and self.h.is_cpu and self.h.dtype in ops.DTYPES


def copy_of_state(t: Tensor) -> Tensor:
    """A copy of what may be a part of a state: that moves on, and backward needs what it was.

    Of a plain copy compiled code may make another one in backward, too late. What has gradients is
    no state.
    """
    if torch.compiler.is_compiling() and torch.is_grad_enabled() and not t.requires_grad:
        return ops.state_copy(t)
    return t.clone()
