"""Runs the CUDA kernels of a sequence in the emulator, with the expected results.

Outputs and scratch are filled with NaN first, so that a read before a write shows. The truth is the
reference, in float64 on the same rounded numbers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulator import build, counts
from stateful_lstm import reference
from stateful_lstm.backend.layer_stack import LayerWeights, accumulation_dtype

HERE = Path(__file__).resolve().parent
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# "kernels" has all variants, "smoke_kernels" a few.
source = "kernels"


@functools.cache
def kernels(kind: str = "plain") -> ModuleType:
    own = [HERE / f"{source}.cpp"]
    if source == "kernels":
        own.append(build.ROOT / "csrc/cuda/launcher.cu")
    return build.load(source, own, [], kind)


def as_array(t: Tensor | None) -> Any:
    """The tensor's memory as a numpy array; bfloat16, which numpy lacks, as integers."""
    if t is None:
        return None
    return (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy()


def unset(*shape: int, dtype: torch.dtype) -> Tensor:
    """All bits one: NaN in every type."""
    t = torch.empty(shape, dtype=dtype)
    if t.numel():
        np.frombuffer(as_array(t).data, np.uint8)[:] = 255
    return t


@dataclass
class Case:
    """One call: its inputs, and the gradients of its outputs."""

    T: int
    B: int
    H: int
    P: int
    dtype: torch.dtype
    reverse: bool = False
    resets: bool = False
    lengths: bool = False
    masked: bool = False
    bias: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        make = torch.Generator().manual_seed(self.seed + 1000)
        T, B, H, P, acc = self.T, self.B, self.H, self.P, accumulation_dtype(self.dtype)

        def noise(*shape: int, dtype: torch.dtype = self.dtype, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=make, dtype=torch.float64) * scale).to(dtype)

        self.gates_x = noise(T, B, 4 * H, dtype=acc)
        self.bias_ih = noise(4 * H) if self.bias else None
        self.bias_hh = noise(4 * H) if self.bias else None
        self.weight_hh = noise(4 * H, P, scale=P**-0.5)
        self.weight_hr = noise(P, H, scale=H**-0.5) if P != H else None
        self.h0, self.c0 = noise(B, P, scale=0.5), noise(B, H, dtype=acc)
        self.reset = torch.rand(T, B, generator=make) < 0.3 if self.resets else None
        self.length = torch.randint(0, T + 1, (B,), generator=make) if self.lengths else None
        mask = torch.rand(B, P, generator=make) < 0.5
        self.mask = (mask * 2).to(self.dtype) if self.masked else None
        self.grad_y, self.grad_h_n = noise(T, B, P), noise(B, P)
        self.grad_c_n = noise(B, H, dtype=acc)
        if self.reset is not None:  # a reset selects: NaN does not get past it
            self.reset[0, 0] = True
            if not self.reverse and (self.length is None or self.length[0] > 0):
                self.c0[0, 0], self.h0[0, 0] = float("nan"), float("nan")

    def sizes(self) -> dict[str, int]:
        return {"T": self.T, "B": self.B, "H": self.H, "P": self.P, "reverse": self.reverse}

    def inputs(self) -> dict[str, Tensor | None]:
        return {
            "weight_hh": self.weight_hh,
            "weight_hr": self.weight_hr,
            "c0": self.c0,
            "reset": self.reset,
            "lengths": self.length,
            "recurrent_mask": self.mask,
        }


def forward(
    case: Case, kernel: str, variant: str, seed: int, kind: str = "plain"
) -> dict[str, Tensor]:
    """The kernel's y, h_n, c_n, gates, cells."""
    T, B, H, P, dtype = case.T, case.B, case.H, case.P, case.dtype
    acc = accumulation_dtype(dtype)
    outputs = {
        "y": unset(T, B, P, dtype=dtype),
        "h_n": unset(B, P, dtype=dtype),
        "c_n": unset(B, H, dtype=acc),
        "gates": unset(T, B, 4 * H, dtype=dtype),
        "cells": unset(T, B, H, dtype=acc),
    }
    scratch = {
        "h": unset(2, B, P, dtype=dtype),
        "c": unset(B, H, dtype=acc),
        "hidden": unset(B, H, dtype=acc) if P != H else None,
    }
    given = {name: getattr(case, name) for name in ("gates_x", "bias_ih", "bias_hh", "h0")}
    given |= case.inputs()
    run(f"forward_{kernel}", case, variant, {**given, **scratch, **outputs}, seed, kind)
    return outputs


def backward(
    case: Case, saved: dict[str, Tensor], kernel: str, variant: str, seed: int, kind: str = "plain"
) -> dict[str, Tensor]:
    """The kernel's grad_gates, grad_h0, grad_c0, and with a projection grad_hidden."""
    T, B, H, P, acc = case.T, case.B, case.H, case.P, accumulation_dtype(case.dtype)
    outputs = {
        "grad_gates": unset(T, B, 4 * H, dtype=acc),
        "grad_h0": unset(B, P, dtype=acc),
        "grad_c0": unset(B, H, dtype=acc),
    }
    if P != H:
        outputs["grad_hidden"] = unset(T, B, P, dtype=acc)
    scratch = {"dh": unset(2, B, P, dtype=acc), "dc": unset(B, H, dtype=acc)}
    given = {
        **case.inputs(),
        "gates": saved["gates"],
        "cells": saved["cells"],
        "grad_y": case.grad_y,
        "grad_h_n": case.grad_h_n,
        "grad_c_n": case.grad_c_n,
    }
    run(f"backward_{kernel}", case, variant, {**given, **scratch, **outputs}, seed, kind)
    return outputs


def run(
    name: str, case: Case, variant: str, tensors: dict[str, Tensor | None], seed: int, kind: str
) -> None:
    arrays = {key: as_array(t) for key, t in tensors.items()}
    name = f"{name} {str(case.dtype).removeprefix('torch.')} {variant}"
    kernels(kind).run(name, case.sizes(), arrays, seed)
    counts.launches.add((name, repr(case), seed))


def truth(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The expected results of forward and backward, in float64."""

    def double(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.double()

    identity = torch.eye(4 * case.H, dtype=torch.float64)  # so that x goes to the gates unchanged
    w_hh, w_hr, mask = double(case.weight_hh), double(case.weight_hr), double(case.mask)
    x = case.gates_x.double().clone().requires_grad_()
    h0, c0 = (t.double().clone().requires_grad_() for t in (case.h0, case.c0))
    assert w_hh is not None
    y, h_n, c_n = reference.layer(
        x,
        LayerWeights(identity, w_hh, double(case.bias_ih), double(case.bias_hh), w_hr),
        h0,
        c0,
        case.reset,
        case.length,
        mask,
        case.reverse,
    )
    h_n, c_n = h_n[0], c_n[0]
    parts = [(y, case.grad_y), (h_n, case.grad_h_n), (c_n, case.grad_c_n)]
    loss = sum((out * grad.double()).sum() for out, grad in parts)
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, [x, h0, c0])
    names = ("grad_gates", "grad_h0", "grad_c0")
    return (
        {"y": y.detach(), "h_n": h_n.detach(), "c_n": c_n.detach()},
        dict(zip(names, grads, strict=True)),
    )
