"""Other LSTMs for a GPU that take part where they are installed: FlashRNN and TorchRL's.

Each function takes an nn.LSTM, whose parameters it uses, and x (T, B, I), and returns a function
that computes the output (T, B, H). Both peers want the batch first: they get it so, and a view
turns their output. An error in here is printed and leaves out the peer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.shapes import Shape

Forward = Callable[[], Tensor]

# They compile for each size, FlashRNN for minutes: they run at these sizes only, and with resets.
FLASHRNN_SHAPES = [Shape(512, 16, H, H, 1) for H in (256, 768)]
FLASHRNN_BACKENDS = {"FlashRNN fused": "cuda_fused", "FlashRNN alternating": "cuda"}
TORCHRL_SHAPES = [Shape(512, 16, H, H, 1) for H in (128, 256, 512, 1024)]


class Peer(NamedTuple):
    """A forward, and the module whose parameters get the gradients."""

    module: nn.Module
    forward: Forward


def flashrnn(lstm: nn.LSTM, x: Tensor, tf32: bool, backend: str = "cuda_fused") -> Peer:
    """FlashRNN with a single head. It takes x @ W_ih.T; gates in nn.LSTM's order.

    Its layouts: inputs (B, T, gates, heads, H), R (gates, heads, to, from), states (2, B, T, heads,
    H) with h first.
    """
    run = importlib.import_module("flashrnn").flashrnn
    H, dtype = lstm.hidden_size, str(x.dtype).removeprefix("torch.")
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    rows = x.transpose(0, 1).contiguous()

    def forward() -> Tensor:
        gates = linear(rows, w_ih).view(*rows.shape[:2], 4, 1, H)
        states, _ = run(
            gates,
            w_hh.view(4, 1, H, H),
            (b_ih + b_hh).view(4, 1, H),
            function="lstm",
            backend=backend,
            dtype=dtype,
        )
        output: Tensor = states[0].squeeze(2).transpose(0, 1)
        return output

    return Peer(lstm, forward)


def torchrl(lstm: nn.LSTM, x: Tensor, tf32: bool, resets: Tensor | None = None) -> Peer:
    """TorchRL's Triton kernels, with its resets; numbers in float32, products in the requested
    precision.

    The function under its LSTMModule(recurrent_backend="triton"), without the module's own work.
    """
    if x.dtype == torch.float16:
        raise TypeError("it multiplies in float32, TF32 or bfloat16 only")
    place = "torchrl.modules.tensordict_module._rnn_triton"
    run = importlib.import_module(place).lstm_triton
    wide = nn.LSTM(lstm.input_size, lstm.hidden_size, device=x.device)
    wide.load_state_dict(lstm.state_dict())
    rows = x.float().transpose(0, 1).contiguous()
    B, T = rows.shape[:2]
    start = rows.new_zeros(B, T, lstm.hidden_size)  # what a reset at each step puts there
    first = torch.zeros(B, T, dtype=torch.bool, device=x.device)
    if resets is not None:
        first = resets.T.contiguous()

    def forward() -> Tensor:
        output: Tensor = run(
            rows,
            start,
            start,
            *wide.all_weights[0],
            first,
            compute_dtype=x.dtype,
            input_precision="tf32" if tf32 else "ieee",
        )[0]
        return output.transpose(0, 1)

    return Peer(wide, forward)


def why_absent(package: str) -> str | None:
    """None if the package is installed, else why it is left out."""
    return None if find_spec(package) else "not installed"
