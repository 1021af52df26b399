"""Arguments of the compiled operators, valid and invalid."""

from __future__ import annotations

import torch
from torch import Tensor

from stateful_lstm.backend import operators

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
T, B, INPUTS, H, P, SLOTS = 4, 3, 9, 6, 5, 7


def acc(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


def forward_args(dtype: torch.dtype, projection: bool, steered: bool, reverse: bool) -> list:
    p = P if projection else H
    return [
        torch.randn(T, B, INPUTS, dtype=dtype),
        torch.randn(4 * H, INPUTS, dtype=dtype),
        torch.randn(4 * H, p, dtype=dtype),
        torch.randn(4 * H, dtype=dtype) if not projection else None,
        torch.randn(4 * H, dtype=dtype) if not projection else None,
        torch.randn(p, H, dtype=dtype) if projection else None,
        torch.randn(B, p, dtype=dtype),
        torch.randn(B, H, dtype=acc(dtype)),
        torch.rand(T, B) < 0.3 if steered else None,
        torch.tensor([T, 0, 2]) if steered else None,
        torch.rand(B, p).to(dtype) if steered else None,
        reverse,
        2,
    ]


def gate_gradients(
    grads: tuple,
    gates: Tensor,
    cells: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    control: tuple,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The backward recurrence: gradients of the gates' sums, h0, c0 and each h.

    `grads` are the gradients of y, h_n and c_n. weight_ih is the unit matrix here, so the gradient
    of x is the gradient of the gates.
    """
    unit = torch.eye(w_hh.size(0), dtype=w_hh.dtype)
    x = torch.zeros(gates.shape, dtype=w_hh.dtype)
    inputs = (x, y, h0, c0, unit, w_hh, w_hr)
    found = operators.lstm_gradients(*grads, gates, cells, *inputs, *control, None, None, None, 17)
    return found[0], *found[4:]


BAD_FORWARD = [
    (0, torch.randn(T, B, INPUTS, dtype=torch.float64), "x has the wrong dtype"),
    (0, torch.randn(T, INPUTS), "x must be"),
    (1, torch.randn(4 * H, INPUTS + 1), r"weight_ih must have shape \(24, 9\), got \(24, 10\)"),
    (2, torch.randn(4 * H, H, dtype=torch.float16), "must be float32, float64 or bfloat16"),
    (2, torch.randn(4 * H + 2, H), "weight_hh"),
    (2, torch.randn(4 * H, P), "weight_hh has 5 columns for H = 6, which needs weight_hr"),
    (3, None, "both biases or none"),
    (4, torch.randn(H), "bias_hh must have shape"),
    (6, torch.randn(B, H + 1), r"h0 must have shape \(3, 6\), got \(3, 7\)"),
    (7, torch.randn(B, H, dtype=torch.float64), "c0 has the wrong dtype"),
    (8, torch.zeros(T, B, dtype=torch.uint8), "reset_mask has the wrong dtype"),
    (9, torch.tensor([T + 1, 0, 0]), r"lengths\[0\] is 5, expected 0 to 4"),
    (9, torch.tensor([0, -1, 0]), r"lengths\[1\] is -1"),
    (10, torch.randn(B, H + 1), "recurrent_mask must have shape"),
    (12, 3, "save must be 0, 1 or 2"),
]
