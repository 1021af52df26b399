"""The loss of a window: from a window to the number that training minimizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from ..data import Window
from ..data.window import check_window
from . import states
from .layout import Layout, is_compiled


class Staged(NamedTuple):
    """A window on the model's device, and facts about it that need no wait for the device."""

    window: Window
    targets: int  # number of targets
    where: Tensor | None  # indices of the outputs (T * B) that have targets; None: all
    resets: bool  # whether reset_mask has a True
    ragged: bool  # whether a length is below T
    begins: Tensor | None  # rows to reset before a forward that takes no reset_mask, on the host


class Objective:
    """Runs the model over a window, and a loss function over the steps that have a target.

    The arguments are those of :class:`stateful_lstm.training.Trainer`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        autocast: torch.dtype | None,
        forward: Callable[[nn.Module, Window], Tensor] | None,
    ) -> None:
        parameter = next(model.parameters(), None)
        if parameter is None:
            raise ValueError("the model has no parameters")
        self.device = parameter.device
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16 or torch.float16, got {autocast}")
        if autocast == torch.float16 and self.device.type != "cuda":
            raise ValueError("autocast to torch.float16 needs CUDA; torch.bfloat16 does not")
        self.model, self.loss_fn, self.autocast, self.forward = model, loss_fn, autocast, forward
        self.bare = model
        if isinstance(model, DistributedDataParallel):
            self.bare = model.module
        self.group = _process_group(model)
        compiled = getattr(self.bare, "_orig_mod", self.bare)  # torch.compile's forward is generic
        accepted = inspect.signature(compiled.forward).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        controls = ("reset_mask", "lengths")
        self._takes = {n for n in controls if anything or n in accepted}
        # Arguments without a default are always passed, others where they have an effect. A
        # compiled model always gets all of them, so that it has one graph.
        always = is_compiled(model, forward)
        self._needs = {
            n
            for n in self._takes
            if always or (n in accepted and accepted[n].default is Parameter.empty)
        }
        self._layout = Layout(model, self.group is None, forward)
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def stage(self, window: Window) -> Staged:
        """Checks the window on the host, and copies it to the device."""
        check_window(window)
        sizes = window.input.shape[:2]
        steps = sizes[1] if window.batch_first else sizes[0]
        if bool(((window.lengths < 0) | (window.lengths > steps)).any()):
            raise ValueError(
                f"the window's lengths must be 0 to T = {steps}, got {window.lengths.tolist()}"
            )
        mask = window.target_mask.flatten()
        where = None if bool(mask.all()) else mask.nonzero().squeeze(1)
        count = mask.numel() if where is None else where.numel()
        resets = bool(window.reset_mask.any())
        ragged = bool((window.lengths < steps).any())
        begins = None
        if resets and "reset_mask" not in self._takes and self.forward is None:
            begins, resets = _rows_that_begin(window), False
        if self._copies is None or window.input.is_cuda:
            window = window.to(self.device)
            where = None if where is None else where.to(self.device)
            return Staged(window, count, where, resets, ragged, begins)
        # The copies overlap with the device's work for earlier updates.
        work = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            if not window.input.is_pinned():
                window = window.pin_memory()
            window = window.to(self.device, non_blocking=True)
            if where is not None:
                where = where.pin_memory().to(self.device, non_blocking=True)
        work.wait_stream(self._copies)
        for tensor in (window.input, window.target, window.reset_mask, window.lengths, where):
            if tensor is not None:
                tensor.record_stream(work)
        return Staged(window, count, where, resets, ragged, begins)

    def _run(self, staged: Staged) -> Any:
        """Runs the model, or ``forward``, over the window."""
        window = staged.window
        if staged.begins is not None:
            states.reset(self.model, None if bool(staged.begins.all()) else staged.begins)
        if self.forward is not None:
            return self.forward(self.model, window)
        control = {}
        if "reset_mask" in self._takes and (staged.resets or "reset_mask" in self._needs):
            control["reset_mask"] = window.reset_mask
        if "lengths" in self._takes and (staged.ragged or "lengths" in self._needs):
            control["lengths"] = window.lengths
        return self.model(window.input, **control)

    def _outputs(self, staged: Staged) -> Tensor:
        window = staged.window
        outputs = self._layout.watch(
            window, lambda shown: self._run(staged if shown is window else _cut(staged, shown))
        )
        if isinstance(outputs, tuple):
            outputs = outputs[0]
        if outputs.shape[:2] != window.target.shape[:2]:
            raise ValueError(
                f"the model's output is {tuple(outputs.shape)} for targets "
                f"{tuple(window.target.shape)}: the first two sizes must agree"
            )
        return cast(Tensor, outputs)

    def loss(self, staged: Staged) -> Tensor:
        """The mean loss over the window's targets; without targets a zero with a graph."""
        outputs, targets = self._outputs(staged).flatten(0, 1), staged.window.target.flatten(0, 1)
        if staged.targets == 0:
            return outputs.sum() * 0
        if staged.where is not None:
            outputs, targets = outputs[staged.where], targets[staged.where]
        loss = self.loss_fn(outputs, targets)
        if loss.dim() != 0:
            raise ValueError(
                f"loss_fn must return the mean over its steps, one number; got {tuple(loss.shape)}"
            )
        return loss

    def share(self, loss: Tensor, count: int) -> tuple[Tensor | None, Tensor]:
        """The loss's weight among all ranks; and the joined batch's loss and target count, (2,)."""
        with torch.no_grad():
            sums = torch.stack([loss.double() * count, torch.full_like(loss, count).double()])
            if self.group is None:
                return None, torch.stack([loss.double(), sums[1]])
            dist.all_reduce(sums, group=self.group)
            total = sums[1].clamp(min=1)
            ranks = dist.get_world_size(self.group)
            # The gradients of the ranks are averaged.
            weight = (count * ranks / total).to(loss.dtype)
            return weight, torch.stack([sums[0] / total, sums[1]])

    def is_blank(self, staged: Staged, reported: Tensor) -> bool:
        """Whether no rank has a target; False where the answer needs a wait for the device."""
        if self.group is None:
            return staged.targets == 0
        return not reported.is_cuda and float(reported[1]) == 0

    @contextmanager
    def autocasting(self) -> Iterator[None]:
        """The autocast context for :meth:`loss`."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            yield


def _cut(staged: Staged, window: Window) -> Staged:
    """The same facts for a part of the window."""
    return staged._replace(window=window, where=None)


def _rows_that_begin(window: Window) -> Tensor:
    """The rows that begin with the window, bool (B,), for a forward without reset_mask."""
    first, later = window.reset_mask, window.reset_mask
    if window.batch_first:
        first, later = first[:, 0], later[:, 1:]
    else:
        first, later = first[0], later[1:]
    if bool(later.any()):
        raise ValueError(
            "a sequence begins inside the window, but the model's forward takes no reset_mask: "
            "add the argument and pass it to the StatefulLSTMs (stateful_lstm.convert turns "
            "nn.LSTMs, which take none, into StatefulLSTMs), or pass forward="
        )
    return first


def _process_group(model: nn.Module) -> Any:
    """The group whose ranks average their gradients, or None."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if isinstance(model, DistributedDataParallel):
        return model.process_group
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        return dist.group.WORLD
    return None
