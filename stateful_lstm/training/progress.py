"""The progress bar of a fit: tqdm's, where that is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

Show: TypeAlias = "Callable[[int, int, float | None], None]"


@contextmanager
def progress_bar(wanted: bool, text: str, count: Callable[[], int]) -> Iterator[Show]:
    """A bar for one epoch, or nothing without tqdm.

    Args:
        wanted: whether to show a bar.
        text: at its beginning.
        count: says how many windows an epoch has, or 0 for an unknown number.

    Yields:
        A function of the number of windows seen, the steps of the last one and its loss.
    """
    tqdm = _tqdm() if wanted else None
    if tqdm is None:
        yield lambda seen, steps, loss: None
        return
    windows = count()
    with tqdm(desc=text, unit="step", unit_scale=True) as bar:

        def show(seen: int, steps: int, loss: float | None) -> None:
            total = windows * steps or None  # only a window tells how many steps it has
            if bar.n == 0:
                bar.reset(total=total)  # a notebook's bar takes its total only so
                bar.initial = seen * steps
            bar.total = total
            bar.set_postfix(loss=loss, refresh=False)
            bar.update(seen * steps - bar.n)

        yield show


def _tqdm() -> Any:
    """The class for where this runs, or None."""
    with warnings.catch_warnings():
        # It warns in a notebook without ipywidgets, where a bar of text does as well.
        warnings.simplefilter("ignore")
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return None
    return tqdm
