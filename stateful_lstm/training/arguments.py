"""Checks of a Trainer's arguments. They run before any effect."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from numbers import Real
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, default_collate

from ..backend.arguments import described
from ..data import ContinuousBatches, Window
from . import states


def kind(model: nn.Module) -> str:
    """The name of the model's class, without its wrappers."""
    if isinstance(model, DistributedDataParallel):
        return kind(model.module)
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    return type(model).__name__ if inner is model else kind(inner)


def place(name: str) -> str:
    """The place of a module in its model, from its name in ``named_modules``."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod") or "model itself"


def check_parts(model: Any, optimizer: Any, loss_fn: Any, scheduler: Any, forward: Any) -> None:
    """Checks the types of a Trainer's parts.

    Raises:
        TypeError: a part has another type.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {described(optimizer)}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"optimizer must make a step without a closure; {type(optimizer).__name__} runs the "
            "model several times per step, and each run would advance the model's state"
        )
    if not callable(loss_fn):
        raise TypeError(
            f"loss_fn must be a function of (outputs, targets), as torch.nn.MSELoss() is, got "
            f"{described(loss_fn)}"
        )
    if isinstance(loss_fn, type):
        raise TypeError(f"loss_fn must be a function, got the class {loss_fn.__name__}: call it")
    if scheduler is not None and not callable(getattr(scheduler, "step", None)):
        raise TypeError(
            f"scheduler must be one of torch.optim.lr_scheduler, got {described(scheduler)}"
        )
    if forward is not None and not callable(forward):
        raise TypeError(f"forward must be a function of (model, window), got {described(forward)}")


def check_norm(clip_grad_norm: Any) -> None:
    """Checks for a positive number.

    Raises:
        TypeError: the value is not a number.
        ValueError: the number is not above 0.
    """
    if isinstance(clip_grad_norm, bool) or not isinstance(clip_grad_norm, Real):
        raise TypeError(f"clip_grad_norm must be a number, got {described(clip_grad_norm)}")
    if not float(clip_grad_norm) > 0:
        raise ValueError(f"clip_grad_norm must be positive, got {clip_grad_norm}")


def check_belonging(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Checks that the optimizer belongs to the model, and the scheduler to the optimizer.

    Raises:
        ValueError: one of them belongs to another model or optimizer.
    """
    own = set(model.parameters())
    if not any(
        parameter in own for group in optimizer.param_groups for parameter in group["params"]
    ):
        raise ValueError(
            f"the {type(optimizer).__name__} has no parameter of the {kind(model)}: make "
            "it from this model's parameters(), after calls that replace them (fully_shard does)"
        )
    groups = getattr(getattr(scheduler, "optimizer", optimizer), "param_groups", None)
    if groups is not optimizer.param_groups:
        raise ValueError(
            f"the {type(scheduler).__name__} is the scheduler of another optimizer: make it from "
            "the Trainer's optimizer"
        )


def warn_without_states(model: nn.Module) -> None:
    """Warns once for a model that carries no state from window to window."""
    if states.present(model):
        return
    plain = [place(name) for name, m in model.named_modules() if type(m) is nn.LSTM]
    text = f"the {kind(model)} has no StatefulLSTM: no state is carried from window to window"
    if plain:
        names = ", ".join(plain)
        text += f". stateful_lstm.convert(model) turns its nn.LSTMs into StatefulLSTMs: {names}"
    warnings.warn(text, UserWarning, stacklevel=3)


def check_windows(windows: Any) -> None:
    """Checks for an iterable of windows that can be iterated more than once.

    Raises:
        TypeError: the value is something else.
    """
    sequences = "ContinuousBatches(x, batch_size, window, targets=y) makes windows from sequences"
    if isinstance(windows, Iterator):
        raise TypeError("windows must be an iterable that can be iterated more than once")
    if isinstance(windows, Window):
        raise TypeError(
            "windows must be an iterable of windows, got a single Window: put it in a list"
        )
    iterable = hasattr(windows, "__iter__") or hasattr(windows, "__getitem__")
    array = hasattr(windows, "__array__")  # DataFrames have it too
    if not iterable or array or isinstance(windows, (str, bytes, Mapping)):
        raise TypeError(
            "windows must be a ContinuousBatches, a DataLoader of one, or another iterable of "
            f"stateful_lstm.data.Window, got {described(windows)}. {sequences}"
        )
    if isinstance(windows, (list, tuple)):
        for k, window in enumerate(windows):
            if not isinstance(window, Window):
                raise TypeError(
                    f"windows[{k}]: expected a stateful_lstm.data.Window, got "
                    f"{described(window)}. {sequences}"
                )
    if (
        isinstance(windows, DataLoader)
        and isinstance(windows.dataset, ContinuousBatches)
        and windows.batch_size is not None
        and windows.collate_fn is default_collate
    ):
        raise TypeError(
            f"the DataLoader has batch_size={windows.batch_size}, which batches windows again: "
            "use DataLoader(windows, batch_size=None)"
        )


def check_epochs(epochs: Any) -> int:
    """Returns ``epochs`` as Python's int; NumPy's integers are accepted.

    Raises:
        TypeError: the value is not a whole number.
        ValueError: the number is below 0.
    """
    whole = isinstance(epochs, (int, np.integer)) and not isinstance(epochs, bool)
    if not whole:
        hint = ""
        if isinstance(epochs, (Tensor, np.ndarray)):
            hint = ". Targets belong to the windows: ContinuousBatches(x, ..., targets=y)"
        raise TypeError(f"epochs must be a whole number, got {described(epochs)}{hint}")
    if epochs < 0:
        raise ValueError(f"epochs must be 0 or more, got {epochs}")
    return index(epochs)


def check_fit(progress: Any, callback: Any) -> None:
    """Checks the other arguments of a fit.

    Raises:
        TypeError: an argument has another type.
    """
    if not isinstance(progress, (bool, int, np.bool_)):
        raise TypeError(f"progress must be True or False, got {described(progress)}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of the trainer, got {described(callback)}")


def check_answer(answer: Any) -> bool:
    """Whether a callback's answer ends training.

    Raises:
        ValueError: the answer is a string other than "stop".
        TypeError: the answer is neither a string nor None.
    """
    if answer is None:
        return False
    if isinstance(answer, str) and answer == "stop":
        return True
    error = ValueError if isinstance(answer, str) else TypeError
    raise error(
        f"the callback returned {described(answer)}: expected None to continue, or 'stop' to end "
        "training"
    )
