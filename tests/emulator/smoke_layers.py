"""Runs a few layers on the emulated operators: every kernel, for AddressSanitizer.

The binding allocates the kernels' memory from torch, scratch too. If it allocates too little, a
kernel reads or writes past an end, which ends this process. tests/cuda/test_cuda_binding.py runs it
with `build.environment("asan")`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import pytest
import torch

from emulator import binding
from stateful_lstm import StatefulLSTM
from stateful_lstm.backend import cuda

binding.source = Path(__file__).with_name("smoke_launcher.cpp")
B, SLOTS = 3, 40
SM80, SM90 = cuda.DeviceLimits(80, 8, 65536, 1), cuda.DeviceLimits(90, 8, 65536, 8)
# Mostly another kernel backward than forward, since their workspaces differ.
CALLS = [
    (SM80, 20, False, ["persistent_block", "persistent_block"]),
    (SM80, 40, True, ["persistent_block", "persistent_grid"]),
    (SM80._replace(shared_bytes=32768), 70, False, ["persistent_grid", "per_step"]),
    (SM90, 40, True, ["persistent_block", "persistent_cluster"]),
    (SM90, 100, False, ["persistent_cluster", "persistent_grid"]),
]
CONFIGS = [{}, {"num_layers": 3, "bidirectional": True}, {"num_layers": 2, "proj_size": 9}]


def kernels(device: cuda.DeviceLimits, H: int, tf32: bool) -> list[str]:
    """The kernels of a call, forward and backward."""
    own = binding.emulated_operators("asan")
    said = (own.cuda_plan(4, B, H, H, 6, tf32, back, *device) for back in (False, True))
    return [text.split(": ")[1].split(",")[0] for text in said]


def run(lstm: StatefulLSTM, steps: int) -> None:
    rows = torch.tensor([SLOTS - 1, 0, -1])
    resets, lengths = torch.rand(steps, B) < 0.3, torch.tensor([steps, 0, steps])
    lstm(torch.randn(steps, B, 5), state_indices=rows, reset_mask=resets, lengths=lengths)
    y, _ = lstm(torch.randn(steps, B, 5), state_indices=rows)
    if y.requires_grad:
        y.sum().backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    for device, H, tf32, expected in CALLS:
        assert kernels(device, H, tf32) == expected
        patch.setattr(cuda, "_matmul_allows_tf32", lambda allowed=tf32: allowed)
        emulated = binding.stand_in(patch, device, "asan")
        for config in CONFIGS:
            lstm = StatefulLSTM(5, H, **config)
            lstm.allocate_state(SLOTS)
            run(lstm, 4)
            with torch.no_grad():
                run(lstm, 1)
        assert {"lstm_forward", "lstm_backward", "lstm_step_"} <= set(emulated.calls)
        patch.undo()
    print("done")
