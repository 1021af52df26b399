"""The progress bar of a fit, by tqdm where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

Show: TypeAlias = "Callable[[int, int, float | None], None]"


@contextmanager
def progress_bar(wanted: bool, text: str, count: Callable[[], int]) -> Iterator[Show]:
    """A bar for one epoch; without tqdm there is no bar.

    Args:
        wanted: whether to show a bar.
        text: the label of the bar.
        count: returns the number of windows in an epoch, or 0 if it is unknown.

    Yields:
        A function that updates the bar: it takes the number of windows seen, the steps of the last
        window and its loss.
    """
    tqdm = _tqdm() if wanted else None
    if tqdm is None:
        yield lambda seen, steps, loss: None
        return
    windows = count()
    with tqdm(desc=text, unit="step", unit_scale=True) as bar:

        def show(seen: int, steps: int, loss: float | None) -> None:
            total = windows * steps or None  # only a window knows its number of steps
            if bar.n == 0:
                bar.reset(total=total)  # a notebook's bar takes its total only from reset()
                bar.initial = seen * steps
            bar.total = total
            bar.set_postfix(loss=loss, refresh=False)
            bar.update(seen * steps - bar.n)

        yield show


def _tqdm() -> Any:
    """Tqdm's class for a terminal or a notebook, or None."""
    with warnings.catch_warnings():
        # tqdm warns in a notebook without ipywidgets, where a bar of text is enough.
        warnings.simplefilter("ignore")
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return None
    return tqdm
