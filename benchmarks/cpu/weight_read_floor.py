"""The floor of a step of one row: a call that reads the weights and multiplies with them.

The call is compiled here, because no torch operator reads as fast. It takes turns with the other
candidates: the machine's speed changes by more than a few percent from minute to minute.
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
ONE_THREAD = 1 << 19  # bytes: up to here one thread is as fast as two, because a wake-up costs time


@cache
def _library() -> Any:
    """The library, compiled in build/ after each change of its source."""
    source = Path(__file__).with_name("weight_read_floor.cpp")
    place = Path(__file__).parents[2] / "build/weight_read_floor"
    place.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        "weight_read_floor",
        [str(source)],
        extra_cflags=["-O3", "-march=native", "-ffp-contract=fast"],
        build_directory=str(place),
        is_python_module=False,
    )
    library = ctypes.PyDLL(str(place / "weight_read_floor.so"))
    library.make_step.restype = ctypes.c_void_p
    library.free_step.argtypes = [ctypes.c_void_p]
    return library


class _WeightRead(nn.Module):
    """Only the products of an LSTM's step: its output has no meaning."""

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
        small = sum(w.nbytes for w in self.weights) <= ONE_THREAD
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
    """The module call that is the floor, in the context of our own calls.

    Raises:
        RuntimeError: the source does not compile.
    """
    module = _WeightRead(lstm).eval()
    return Candidate(NAME, lambda: module(x), context)
