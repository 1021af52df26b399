"""Runs the CUDA kernels of the inference step in the emulator, with the expected results."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emulator import counts
from emulator.sequence import as_array, kernels, unset
from stateful_lstm import reference
from stateful_lstm.backend.layer_stack import LayerWeights, accumulation_dtype


@dataclass
class Step:
    """One step of one layer on a state of some slots."""

    B: int
    I: int  # noqa: E741
    H: int
    P: int
    dtype: torch.dtype
    rows: list[int] | None = None  # the slot of each row, -1 for padding; None: row b is slot b
    resets: bool = False
    from_zero: bool = False
    bias: bool = True
    slots: int = 0

    def __post_init__(self) -> None:
        make = torch.Generator().manual_seed(5)
        self.slots = self.slots or self.B
        B, I, H, P = self.B, self.I, self.H, self.P  # noqa: E741
        acc = accumulation_dtype(self.dtype)

        def noise(*shape: int, dtype: torch.dtype = self.dtype, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=make, dtype=torch.float64) * scale).to(dtype)

        self.weight_ih, self.weight_hh = noise(4 * H, I, scale=I**-0.5), noise(4 * H, P, scale=0.3)
        self.bias_ih = noise(4 * H) if self.bias else None
        self.bias_hh = noise(4 * H) if self.bias else None
        self.weight_hr = noise(P, H, scale=H**-0.5) if P != H else None
        self.x = noise(B, I)
        self.h, self.c = noise(self.slots, P, scale=0.5), noise(self.slots, H, dtype=acc)
        self.reset = torch.rand(B, generator=make) < 0.5 if self.resets else None

    def slot(self, row: int) -> int:
        return row if self.rows is None else self.rows[row]


def run(step: Step, variant: str, seed: int, kind: str = "plain") -> dict[str, Tensor]:
    """The kernel's y, h_n, c_n, and h and c after the step."""
    B, P, H, dtype = step.B, step.P, step.H, step.dtype
    outputs = {
        "h": step.h.clone(),
        "c": step.c.clone(),
        "y": unset(B, P, dtype=dtype),
        "h_n": unset(B, P, dtype=dtype),
        "c_n": unset(B, H, dtype=dtype),
    }
    given = {
        name: getattr(step, name)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "x", "reset")
    }
    hidden = unset(B, H, dtype=accumulation_dtype(dtype))
    rows = None if step.rows is None else torch.tensor(step.rows)
    arrays = {
        name: as_array(t)
        for name, t in {**given, **outputs, "hidden": hidden, "rows": rows}.items()
    }
    sizes = {name: getattr(step, name) for name in ("B", "I", "H", "P", "slots", "from_zero")}
    name = f"inference_step {str(dtype).removeprefix('torch.')} {variant}"
    kernels(kind).run(name, sizes, arrays, seed)
    counts.launches.add((name, repr(step), seed))
    return outputs


def truth(step: Step) -> dict[str, Tensor]:
    """The same in float64, row by row on the rows' slots."""

    def double(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.double()

    w_ih, w_hh = step.weight_ih.double(), step.weight_hh.double()
    weights = LayerWeights(
        w_ih, w_hh, double(step.bias_ih), double(step.bias_hh), double(step.weight_hr)
    )
    h, c = step.h.double(), step.c.double()
    out = {
        "h": h.clone(),
        "c": c.clone(),
        "y": torch.zeros(step.B, step.P, dtype=torch.float64),
        "h_n": torch.zeros(step.B, step.P, dtype=torch.float64),
        "c_n": torch.zeros(step.B, step.H, dtype=torch.float64),
    }
    for b in range(step.B):
        slot = step.slot(b)
        if slot < 0:
            continue
        h0, c0 = h[slot : slot + 1], c[slot : slot + 1]
        if step.from_zero or (step.reset is not None and step.reset[b]):
            h0, c0 = torch.zeros_like(h0), torch.zeros_like(c0)
        x = step.x[b : b + 1].double().unsqueeze(0)
        y, h_n, c_n = reference.layer(x, weights, h0, c0, None, None, None, False)
        out["y"][b], out["h_n"][b], out["c_n"][b] = y[0, 0], h_n[0, 0], c_n[0, 0]
        out["h"][slot], out["c"][slot] = h_n[0, 0], c_n[0, 0]
    return out
