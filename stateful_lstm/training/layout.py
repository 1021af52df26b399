"""Checks that the recurrent layers of a model read a window's axes in the window's order.

A layer with another ``batch_first`` than the window runs on swapped axes without an error. The
model may transpose its input, so the check looks at the shapes that reach the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..data import Window
from . import rng, states
from .arguments import place

Result = TypeVar("Result")
FEATURES = "features"  # beside True and False, the values of batch_first


class _MisreadError(ValueError):
    """A layer would read the window in the wrong layout."""


class Layout:
    """Checks the input of recurrent layers while the first windows run through a model.

    Args:
        model: the model, with its states.
        rehearse: whether a compiled model runs the first window once more, eagerly and without
            side effects: compiled code may not call hooks. False for many ranks, whose collectives
            would no longer match.
        forward: the function that runs the model, or None.
    """

    def __init__(
        self, model: nn.Module, rehearse: bool, forward: Callable[..., Any] | None
    ) -> None:
        self._model, self._rehearse, self._forward = model, rehearse, forward
        self._sound: set[bool | str] = set()  # the questions with a good answer

    def watch(self, window: Window, run: Callable[[Window], Result]) -> Result:
        """Returns ``run(window)``, the model's forward over this window.

        A window with T = B does not show its layout. The model then first runs over a part of it,
        without side effects.

        Raises:
            ValueError: a layer gets the window in another layout than its own, or without a
                feature axis. The resident states do not change.
        """
        part = _without_last_step(window) if self._rehearse else None
        if part is not None and window.batch_first not in self._sound:
            layers = self._layers(part, {window.batch_first})
            if layers:
                with (
                    _side_effects_undone(self._model),
                    _watched(layers, part),
                    _other_errors_ignored(),
                ):
                    run(part)
            self._sound.add(window.batch_first)
        questions = self._open_questions(window)
        layers = self._layers(window, questions) if questions else {}
        if not layers:
            return run(window)
        if self._rehearse and is_compiled(self._model, self._forward):
            with _side_effects_undone(self._model), _watched(layers, window):
                run(window)
            result = run(window)
        else:
            before = states.read(self._model)
            try:
                with _watched(layers, window):
                    result = run(window)
            except _MisreadError:
                states.write(self._model, before)
                raise
        self._sound |= questions
        return result

    def _open_questions(self, window: Window) -> set[bool | str]:
        """The questions that this window answers, and no earlier window has answered."""
        questions: set[bool | str] = set()
        first, second = window.input.shape[:2]
        if first != second:
            questions.add(window.batch_first)
        if _lacks_features(window):
            questions.add(FEATURES)
        return questions - self._sound

    def _layers(self, window: Window, questions: set[bool | str]) -> dict[str, nn.RNNBase]:
        """The layers that may read the window in the wrong layout."""
        return {
            name: module
            for name, module in self._model.named_modules()
            if isinstance(module, nn.RNNBase)
            and (FEATURES in questions or module.batch_first != window.batch_first)
        }


def _without_last_step(window: Window) -> Window | None:
    """A window with T = B without its last step; None for any other window."""
    first, second = window.input.shape[:2]
    if first != second or first < 2:
        return None
    steps = first - 1

    def cut(t: Tensor) -> Tensor:
        return t[:, :steps] if window.batch_first else t[:steps]

    return replace(
        window,
        input=cut(window.input),
        target=cut(window.target),
        reset_mask=cut(window.reset_mask),
        target_mask=cut(window.target_mask),
        lengths=window.lengths.clamp(max=steps),
    )


@contextmanager
def _other_errors_ignored() -> Iterator[None]:
    """A model may fail on a part of a window; such a failure says nothing about the layout."""
    try:
        yield
    except _MisreadError:
        raise
    except Exception:
        return


def _lacks_features(window: Window) -> bool:
    return window.input.dim() == 2 and window.input.is_floating_point()


@contextmanager
def _watched(layers: Mapping[str, nn.RNNBase], window: Window) -> Iterator[None]:
    """Inside, these layers raise before they read the window in the wrong layout."""
    hooks = [
        layer.register_forward_pre_hook(partial(_look, name, window), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _look(
    name: str,
    window: Window,
    layer: nn.RNNBase,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Tensor):  # a PackedSequence has no axes to swap
        return
    layer_name = f"the {place(name)} ({type(layer).__name__})"
    first, second = window.input.shape[:2]
    if (
        x.dim() == 3
        and x.shape[:2] == (first, second)
        and first != second
        and layer.batch_first != window.batch_first
    ):
        B, T = (first, second) if window.batch_first else (second, first)
        raise _MisreadError(
            f"the window has batch_first={window.batch_first}, {layer_name} has "
            f"batch_first={layer.batch_first} and gets {tuple(x.shape)}: it would read {T} rows of "
            f"{B} steps, the window has {B} rows of {T} steps. Give the windows the layer's layout "
            f"(ContinuousBatches(..., batch_first={layer.batch_first})), or the layer the windows' "
            f"layout (batch_first={window.batch_first})"
        )
    reset_mask = kwargs.get("reset_mask")
    fails = x.size(-1) != layer.input_size or (reset_mask is not None and reset_mask.dim() == 2)
    if (
        _lacks_features(window)
        and x.dim() == 2
        and x.shape in ((first, second), (second, first))
        and fails
    ):
        axes = "(batch, time)" if window.batch_first else "(time, batch)"
        raise _MisreadError(
            f"the window's input is {axes}, {(first, second)}, and {layer_name} takes a third "
            "axis, the features. Sequences of single numbers need that axis too: make the windows "
            "from series.unsqueeze(-1) for a tensor, series.reshape(-1, 1) for an array"
        )


def is_compiled(model: nn.Module, forward: Callable[..., Any] | None) -> bool:
    """Whether a part of the model, or the function that runs the model, is compiled."""
    callables: list[Any] = [forward]
    for module in model.modules():
        callables += [module.forward, *filter(callable, vars(module).values())]
    return any(hasattr(each, "_torchdynamo_orig_callable") for each in callables)


@contextmanager
def _side_effects_undone(model: nn.Module) -> Iterator[None]:
    """Inside, the model runs eagerly; on exit the model is the same as before."""
    places: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (place, dict(place))
        for module in model.modules()
        for place in (vars(module), module._buffers)
    ]
    tensors = [
        (value, value.clone())
        for _, values in places
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    caching = torch.is_autocast_cache_enabled()
    with states.preserve(model), rng.preserve(), torch.no_grad():
        try:
            torch.set_autocast_cache_enabled(False)  # later calls must not find casts without graph
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            torch.set_autocast_cache_enabled(caching)
            for place, values in places:
                place.clear()
                place.update(values)
            for tensor, value in tensors:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
