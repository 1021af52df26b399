"""`make test-sanitized` sees faults: with the wrong library these tests fail."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    "STATEFUL_LSTM_SANITIZE" not in os.environ, reason="only under `make test-sanitized`"
)

CALL = """
import ctypes, sys
import torch
from stateful_lstm.backend import operators

T, B, I, H = 3, 2, 9, 21
dtype = getattr(torch, sys.argv[1])
wide = torch.float32 if dtype == torch.bfloat16 else dtype
inputs = [torch.randn(*n).to(dtype) for n in ((T, B, I), (4 * H, I), (4 * H, H))]
h0, c0 = torch.randn(B, H).to(dtype), torch.randn(B, H).to(wide)
lengths = torch.tensor([T, 1])
"""
FORWARD = """
operators.lstm_forward(*inputs, None, None, None, h0, c0, None, lengths, None, False, 2)
print("done")
"""


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_sound_call_passes() -> None:
    done = run(CALL + FORWARD, "float32")
    assert done.stdout == "done\n" and done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_read_of_what_is_not_to_be_read_is_seen(dtype: str) -> None:
    forbid = """
end = inputs[2].data_ptr() + inputs[2].nbytes
ctypes.CDLL(None).__asan_poison_memory_region(ctypes.c_void_p(end - 8), ctypes.c_size_t(8))
"""
    done = run(CALL + forbid + FORWARD, dtype)
    assert done.returncode != 0 and "ERROR: AddressSanitizer" in done.stderr, done.stderr
    assert "stateful_lstm::" in done.stderr, done.stderr


def test_a_misaligned_number_is_seen() -> None:
    shifted = "lengths = torch.frombuffer(bytearray(64), dtype=torch.int64, count=2, offset=1)\n"
    done = run(CALL + shifted + FORWARD, "float32")
    assert done.returncode != 0 and "misaligned address" in done.stderr, done.stderr
