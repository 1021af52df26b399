"""The gradients of a layer's weights and inputs, range after range of its steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import cuda, operators
from .layer_stack import LayerWeights, accumulation_dtype


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t.to(dtype)``, but free where the dtype is the same."""
    return t if t.dtype == dtype else t.to(dtype)


class Control(NamedTuple):
    """The resets, lengths, mask and direction of a recurrence; shapes: ``layer_stack.Layer``."""

    reset: Tensor | None
    lengths: Tensor | None
    recurrent_mask: Tensor | None
    reverse: bool


class RangeForward(NamedTuple):
    """The inputs and results of a range's forward call. Shapes: ``operators.lstm_forward``."""

    x: Tensor
    y: Tensor
    h0: Tensor
    c0: Tensor
    gates: Tensor
    cells: Tensor


class Grads:
    """Backward of one range after another, with sums of the weights' gradients."""

    def __init__(self, needs: tuple[bool, ...], weights: LayerWeights, tf32: bool) -> None:
        self.weights, self.tf32 = weights, tf32
        self.need_x, self.need_h0 = needs[0], needs[6]
        self.needed = [need and w is not None for need, w in zip(needs[1:6], weights, strict=True)]
        self.sums: list[Tensor | None] = [None] * 5

    def add(
        self,
        grads: tuple[Tensor | None, Tensor | None, Tensor | None],
        forward: RangeForward,
        control: Control,
        last: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Takes the gradients of y, h_n and c_n; returns those of x, h0 and c0.

        ``last``: no other range will be added.
        """
        raise NotImplementedError

    def _add_hidden(self, grad_hidden: Tensor, forward: RangeForward) -> None:
        """The gradient of weight_hr, whose product takes h before the projection."""
        if self.needed[4]:
            cells = forward.cells
            o = forward.gates[..., -cells.size(2) :]
            self._add_product(4, grad_hidden, o.to(cells.dtype) * cells.tanh())

    def _add_product(self, k: int, grad: Tensor, into: Tensor) -> None:
        """Adds to sum k the product of a gradient (T*B, N) and its input (T, B, K)."""
        # flatten() is not for batches of gradients (is_grads_batched), reshape() is.
        old, rows = self.sums[k], grad.reshape(-1, grad.size(2)).T
        into = into.reshape(-1, into.size(2))
        if old is not None and old.dtype == rows.dtype:
            old.addmm_(rows, into)
        else:
            added = product(rows, into)
            self.sums[k] = added if old is None else old + added

    def results(self) -> list[Tensor | None]:
        """The gradients of the five weights."""
        return [
            cast(s, w.dtype) if need and s is not None and w is not None else None
            for need, s, w in zip(self.needed, self.sums, self.weights, strict=True)
        ]


class KernelGrads(Grads):
    """On the CPU one operator computes all but the projection's product."""

    def add(
        self,
        grads: tuple[Tensor | None, Tensor | None, Tensor | None],
        forward: RangeForward,
        control: Control,
        last: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In one call."""
        w_ih, w_hh, b_ih, b_hh, _ = self.needed
        bias, want_h0 = b_ih or b_hh, self.need_h0 or not last
        x, y, h0, c0, gates, cells = forward
        grad_y, grad_h, grad_c = grads
        grad_x, *sums, grad_h0, grad_c0, grad_hidden = operators.lstm_gradients(
            grad_y,
            grad_h,
            grad_c,
            gates,
            cells,
            x,
            y,
            h0,
            c0,
            self.weights.w_ih,
            self.weights.w_hh,
            self.weights.w_hr,
            *control,
            self.sums[0],
            self.sums[1],
            self.sums[2],
            self.need_x + 2 * w_ih + 4 * w_hh + 8 * bias + 16 * want_h0 + 32 * last,
        )
        for k, needed in enumerate((w_ih, w_hh, bias)):
            if needed:
                self.sums[k] = sums[k]
        self._add_hidden(grad_hidden, forward)
        return grad_x, grad_h0, grad_c0

    def results(self) -> list[Tensor | None]:
        """The gradients of the five weights."""
        bias = self.sums[2]
        # Each bias gets a gradient of its own: someone may change one in place.
        self.sums[3] = bias.clone() if bias is not None and all(self.needed[2:4]) else bias
        return super().results()


class LibraryGrads(Grads):
    """On CUDA the kernel computes the gradients of the gates, and library products the rest."""

    def add(
        self,
        grads: tuple[Tensor | None, Tensor | None, Tensor | None],
        forward: RangeForward,
        control: Control,
        last: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The recurrence, then product by product."""
        w_ih, w_hh, b_ih, b_hh, _ = self.needed
        x, y, h0, c0, gates, cells = forward
        grad_y, grad_h_n, grad_c_n = grads
        grad_gates, grad_h, grad_c, grad_hidden = operators.lstm_backward(
            grad_y,
            grad_h_n,
            grad_c_n,
            gates,
            cells,
            self.weights.w_hh,
            self.weights.w_hr,
            c0,
            *control,
            tf32=self.tf32,
        )
        factor = cast(grad_gates, factor_dtype(x))
        if w_ih:
            self._add_product(0, factor, cast(x, factor.dtype))
        if w_hh:
            self._add_product(1, factor, previous_factor(y, h0, control))
        if b_ih or b_hh:
            bias = grad_gates.sum((0, 1))
            for k in (2, 3):
                if self.needed[k]:
                    old = self.sums[k]
                    self.sums[k] = bias.clone() if old is None else old + bias
        self._add_hidden(grad_hidden, forward)
        grad_x = factor
        if self.need_x:
            grad_x = cast(factor @ cast(self.weights.w_ih, factor.dtype), x.dtype)
        return grad_x, grad_h, grad_c


def factor_dtype(x: Tensor) -> torch.dtype:
    """The dtype of factors of products over time: on CUDA that of x, for tensor cores."""
    return x.dtype if cuda.on_gpu(x) else accumulation_dtype(x.dtype)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, two matrices, in the dtype of sums."""
    acc = accumulation_dtype(a.dtype)
    if a.dtype == acc:
        return a @ b
    return torch.mm(a, b, out_dtype=acc) if a.is_cuda else a.to(acc) @ b.to(acc)


def _previous_hidden(y: Tensor, h0: Tensor, control: Control) -> Tensor:
    """The h before each step, (T, B, P); zeros where a row has ended."""
    reset, lengths, _, reverse = control
    first = h0.unsqueeze(0)
    if y.size(0) == 1:
        prev = first
    elif not reverse:
        prev = torch.cat([first, y[:-1]]) if y.size(0) else y
    else:
        prev = torch.cat([y[1:], first]) if y.size(0) else y
    if lengths is not None:
        steps = torch.arange(y.size(0), device=y.device).unsqueeze(1)
        if reverse:  # a row's first step is its last valid one
            prev = torch.where((steps == lengths - 1).unsqueeze(2), first, prev)
        prev = prev.masked_fill((steps >= lengths).unsqueeze(2), 0)
    return prev if reset is None else prev.masked_fill(reset.unsqueeze(2), 0)


def previous_factor(y: Tensor, h0: Tensor, control: Control) -> Tensor:
    """The h that each step's recurrent product takes, (T, B, P)."""
    prev, mask = cast(_previous_hidden(y, h0, control), factor_dtype(y)), control.recurrent_mask
    return prev if mask is None else prev * mask
