"""What no step of one row is quicker than: a call that reads the weights and multiplies with them.

Compiled here, since no operator of torch reads as fast. It takes turns with the others, and so
meets the same machine, which differs from one minute to the next by more than a few percent.
"""

from __future__ import annotations

import ctypes
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import cpp_extension

from benchmarks.cpu.timing import Candidate

NAME = "reading alone"
ALONE = 1 << 19  # bytes that one thread reads about as soon as two, of whom one must wake


@cache
def _library() -> Any:
    """Built beside the results of builds, once for each change of its source."""
    source = Path(__file__).with_name("weight_read_floor.cpp")
    place = Path(__file__).parents[2] / "build/weight_read_floor"
    place.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        "reading",
        [str(source)],
        extra_cflags=["-O3", "-march=native", "-ffp-contract=fast"],
        build_directory=str(place),
        is_python_module=False,
    )
    library = ctypes.PyDLL(str(place / "reading.so"))
    library.make_step.restype = ctypes.c_void_p
    library.free_step.argtypes = [ctypes.c_void_p]
    return library


class _Reading(nn.Module):
    """A step of an LSTM's weights without all but the products: its output is no result."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.library = _library()
        self.weights = [w.detach() for ws in lstm.all_weights for w in ws if w.dim() == 2]
        pointers = [w.data_ptr() for w in self.weights]
        rows = [w[0].nbytes // 4 for w in self.weights]
        count = len(rows)
        self.step = self.library.make_step(
            (ctypes.c_void_p * count)(*pointers),
            (ctypes.c_int64 * count)(*rows),
            ctypes.c_int64(count),
            ctypes.c_int64(lstm.hidden_size),
        )
        small = sum(w.nbytes for w in self.weights) <= ALONE
        threads = 1 if small else torch.get_num_threads()
        self.run = partial(
            self.library.run_step, ctypes.c_void_p(self.step), ctypes.c_int64(threads)
        )
        self.output = torch.zeros(1, 1, lstm.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.run()
        return self.output

    def __del__(self) -> None:
        self.library.free_step(self.step)


def candidate(lstm: nn.LSTM, x: torch.Tensor, context: Any) -> Candidate:
    """Such a call of a module, in the context in which ours is timed.

    Raises:
        RuntimeError: if it cannot be compiled.
    """
    module = _Reading(lstm).eval()
    return Candidate(NAME, lambda: module(x), context)
