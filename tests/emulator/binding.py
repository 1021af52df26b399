"""The operators on CUDA with the emulator under them, on CPU tensors.

csrc/bindings/operators_cuda.cpp registers them as torch.ops.stateful_lstm_emulated. `stand_in`
makes the package take CPU tensors for CUDA tensors: layer, autograd and state then run as on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

from emulator import build
from stateful_lstm.backend import cuda, operators

CSRC = build.ROOT / "csrc"
H100 = cuda.DeviceLimits(90, 8, 232448, 8)  # but with few SMs: each block's threads are fibers here


# "smoke_launcher.cpp" has a few variants of float32 only, and compiles quickly.
source = CSRC / "cuda/launcher.cu"


@functools.cache
def emulated_operators(kind: str = "plain") -> Any:
    flags = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    places = [f"-L{path}" for path in cpp_extension.library_paths()]
    library = build.build(
        "binding",
        [source],
        [CSRC / "bindings/operators_cuda.cpp"],
        kind,
        flags=[*flags, "-DTORCH_TARGET_VERSION=0x020b000000000000"],
        libraries=[*places, "-ltorch", "-ltorch_cpu", "-lc10"],
    )
    torch.ops.load_library(Path(library))
    return torch.ops.stateful_lstm_emulated


class Emulated:
    """The names of the operators called; `paused` is true while the emulator is left out."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.paused = False

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside, CPU tensors go to the CPU's operators."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False


def stand_in(
    monkeypatch: pytest.MonkeyPatch, device: cuda.DeviceLimits = H100, kind: str = "plain"
) -> Emulated:
    """Until the test ends, CPU tensors are treated as CUDA tensors, on the emulated operators."""
    emulated, own = Emulated(), emulated_operators(kind)
    own.emulate(*device)

    def instead(name: str) -> None:
        usual = getattr(operators, name)

        def call(*args: Any, **options: Any) -> Any:
            if emulated.paused:
                return usual(*args, **options)
            emulated.calls.append(name)
            options.pop("in_place", None)
            out = getattr(own, name)(*args, **options)
            if name.endswith("_"):
                operators.mark_changed(args[2:4] if name == "lstm_step_" else args[:2])
            return out

        monkeypatch.setattr(operators, name, call)

    for name in ("lstm_forward", "lstm_backward", "lstm_step_"):
        instead(name)
    for name in ("state_gather", "state_scatter_", "state_write_"):
        instead(name)
    monkeypatch.setattr(operators, "fastpath_inference", None)
    monkeypatch.setattr(operators, "fastpath_forward", None)
    monkeypatch.setattr(cuda, "on_gpu", lambda x: not emulated.paused)
    monkeypatch.setattr(
        cuda, "why_not", lambda x: None if x.dtype in cuda.DTYPES else f"no kernels for {x.dtype}"
    )
    monkeypatch.setattr(cuda, "_operators", lambda: own)
    return emulated
