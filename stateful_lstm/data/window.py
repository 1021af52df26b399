"""``Window``: the data of one update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..backend.arguments import described
from .sequences import Steps, as_tensor, check_length, check_like, check_sequences

_TENSORS = ("input", "target", "reset_mask", "lengths", "target_mask")
_PLACE = ("epoch", "window")  # the part of a position that a repr shows


# Not frozen: Lightning builds new batches from the parts of a batch.
@dataclass(eq=False, repr=False)
class Window:
    """T steps of B rows, time-major or with the batch first.

    Attributes:
        input: (T, B, ...) or (B, T, ...); zeros where a row has no step.
        target: (T, B, ...) or (B, T, ...); zeros where ``target_mask`` is False.
        reset_mask: bool, (T, B) or (B, T): True where a sequence begins.
        lengths: int64 (B,): number of steps of each row; later steps are padding.
        target_mask: bool, (T, B) or (B, T): True where there is a target.
        batch_first: whether B comes before T.
        position: the position after this window, for
            :meth:`ContinuousBatches.load_state_dict`; empty for a window from another source.
    """

    input: Tensor
    target: Tensor
    reset_mask: Tensor
    lengths: Tensor
    target_mask: Tensor
    batch_first: bool = False
    position: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Sizes and dtypes, no values: this needs no wait for the device."""
        parts = [f"{name}={_brief(getattr(self, name))}" for name in ("input", "target")]
        parts.append(f"batch_first={self.batch_first}")
        parts += [f"{name}={self.position[name]}" for name in _PLACE if name in self.position]
        return f"Window({', '.join(parts)})"

    @classmethod
    def pad(
        cls,
        sequences: Sequence[Steps],
        targets: Sequence[Steps] | None = None,
        batch_first: bool = False,
    ) -> Window:
        """Pads whole sequences of different lengths to one window, one sequence per row.

        Args:
            sequences: B tensors or arrays (T_i, ...), of one dtype, and of one shape except T_i.
            targets: B tensors or arrays (T_i, ...); None: the target at t is the input at t + 1,
                and a sequence's last step has no target.
            batch_first: whether B comes before T in the window.

        Returns:
            A window with T = max(T_i) and ``lengths`` = T_i.

        Raises:
            TypeError: an argument is not a list of tensors or arrays.
            ValueError: there is no sequence, a sequence is empty, or shapes or dtypes do not fit
                together.
        """
        check_sequences(sequences, "sequences")
        if targets is not None:
            check_sequences(targets, "targets")
        if len(sequences) == 0:
            raise ValueError("expected at least one sequence, got none")
        if targets is not None and len(targets) != len(sequences):
            raise ValueError(f"got {len(sequences)} sequences and {len(targets)} targets")
        T = max(check_length(x, f"sequences[{row}]") for row, x in enumerate(sequences))
        for row, y in enumerate(() if targets is None else targets):
            check_length(y, f"targets[{row}]")
        inputs = [as_tensor(x) for x in sequences]
        wanted = [x[1:] for x in inputs] if targets is None else [as_tensor(y) for y in targets]
        blank = Blank(T, len(inputs), inputs[0], wanted[0], batch_first)
        for row, (x, y) in enumerate(zip(inputs, wanted, strict=True)):
            check_like(x, inputs[0], f"sequences[{row}]")
            check_like(y, wanted[0], f"targets[{row}]")
            if targets is not None and len(x) != len(y):
                raise ValueError(f"targets[{row}] has {len(y)} steps, its sequence has {len(x)}")
            blank.write(row, 0, x, y, begins=True)
        return blank.window({})

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Window:
        """The same window on another device.

        Args:
            device: as in ``torch.Tensor.to``.
            non_blocking: whether to return before the copy ends, as in ``torch.Tensor.to``.

        Returns:
            A new window; its position is the same.
        """
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Window:
        """The same window in page-locked memory. A ``DataLoader`` with ``pin_memory`` calls this.

        Returns:
            A new window; its position is the same.
        """
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Window:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in _TENSORS}
        return replace(self, **changed)


def check_window(window: Any) -> None:
    """Checks the types and shapes of a window's tensors on any device, but no values.

    Raises:
        TypeError: the argument is not a :class:`Window`, a field is not a tensor, a mask is not
            bool, or the lengths are not int64 or int32.
        ValueError: the input has no T and B, or another field has another T or B.
    """
    if not isinstance(window, Window):
        raise TypeError(f"expected a stateful_lstm.data.Window, got {described(window)}")
    for name in _TENSORS:
        value = getattr(window, name)
        if not isinstance(value, Tensor):
            raise TypeError(f"the window's {name} must be a tensor, got {described(value)}")
    layout = "(B, T, ...)" if window.batch_first else "(T, B, ...)"
    if window.input.dim() < 2:
        shape = tuple(window.input.shape)
        raise ValueError(f"the window's input must be {layout}, got shape {shape}")
    sizes = tuple(window.input.shape[:2])
    if window.target.shape[:2] != sizes:
        raise ValueError(
            f"the window's target must be {layout} like its input, {sizes}; got shape "
            f"{tuple(window.target.shape)}"
        )
    for name in ("reset_mask", "target_mask"):
        _check_field(window, name, (torch.bool,), sizes)
    rows = sizes[0] if window.batch_first else sizes[1]
    _check_field(window, "lengths", (torch.int64, torch.int32), (rows,))


def _check_field(
    window: Window, name: str, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]
) -> None:
    value = getattr(window, name)
    if value.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"the window's {name} must be a tensor of {expected}, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"the window's {name} must be {shape}, got {tuple(value.shape)}")


def _brief(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


class Blank:
    """A window under construction: T steps of B rows, zeros at first."""

    def __init__(self, T: int, B: int, input: Tensor, target: Tensor, batch_first: bool) -> None:
        """``input`` and ``target`` (any, ...) give the dtype and the shape of a step."""
        self.batch_first = batch_first
        sizes = (B, T) if batch_first else (T, B)
        self.input = input.new_zeros(*sizes, *input.shape[1:])
        self.target = target.new_zeros(*sizes, *target.shape[1:])
        self.reset_mask = torch.zeros(sizes, dtype=torch.bool, device="cpu")
        self.target_mask = torch.zeros(sizes, dtype=torch.bool, device="cpu")
        self.lengths = torch.zeros(B, dtype=torch.int64, device="cpu")

    def write(self, row: int, t: int, input: Tensor, target: Tensor, begins: bool) -> None:
        """Writes steps from t on; ``begins``: they begin a sequence. Targets may be fewer."""
        n, known = len(input), len(target)
        self._row(self.input, row)[t : t + n] = input
        self._row(self.target, row)[t : t + known] = target
        self._row(self.target_mask, row)[t : t + known] = True
        self._row(self.reset_mask, row)[t] = begins
        self.lengths[row] = t + n

    def _row(self, tensor: Tensor, row: int) -> Tensor:
        return tensor[row] if self.batch_first else tensor[:, row]

    def window(self, position: Mapping[str, Any]) -> Window:
        """The finished window."""
        return Window(
            self.input,
            self.target,
            self.reset_mask,
            self.lengths,
            self.target_mask,
            self.batch_first,
            position,
        )
