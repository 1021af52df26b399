"""The partition of a call over threads changes no bit of its results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparisons import assert_close

import stateful_lstm
from stateful_lstm import StatefulLSTM

ROOT = Path(__file__).resolve().parents[2]

# Every feature of the two recurrences, over sizes that fill no vector and leave members idle.
EVERYTHING = """
import hashlib, itertools, sys
import torch
from operator_support import gate_gradients
from stateful_lstm.backend import operators

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(5)
for dtype, H, P, reverse in itertools.product(
    (torch.float32, torch.float64, torch.bfloat16), (5, 70), (None, 3, 41), (False, True)
):
    if P is not None and P >= H:
        continue
    T, B, wide = 6, 5, torch.float32 if dtype == torch.bfloat16 else dtype
    w_hr = None if P is None else torch.randn(P, H, dtype=dtype)
    P = P or H
    w, h, c = torch.randn(4 * H, P, dtype=dtype), torch.randn(B, P, dtype=dtype), torch.randn(B, H)
    steer = (
        torch.rand(T, B) < 0.3,
        torch.tensor([6, 0, 3, 1, 6]),
        (torch.rand(B, P) < 0.5).to(dtype) * 2,
    )
    for mask, lengths, dropped in ((None, None, None), steer, (steer[0], None, steer[2])):
        x, w_ih, bias = (torch.randn(*n, dtype=dtype) for n in ((T, B, 7), (4 * H, 7), (2, 4 * H)))
        args = x, w_ih, w, *bias, w_hr, h, c.to(wide), mask, lengths, dropped
        out = operators.lstm_forward(*args, reverse, 2)
        y, h_n, c_n, gates, cells = out
        control = mask, lengths, dropped, reverse
        grads = gate_gradients((y, h_n, c_n), gates, cells, y, h, c.to(wide), w, w_hr, control)
        for t in (*out, *grads):
            print(hashlib.sha1(t.view(torch.uint8).numpy().tobytes()).hexdigest())
"""


def digests(split: str, threads: int) -> list[str]:
    env = {**os.environ, "STATEFUL_LSTM_SPLIT": split, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", EVERYTHING, str(threads)]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_rows_or_units_and_any_number_of_threads_give_the_same_bits() -> None:
    alone = digests("rows", 1)
    assert len(set(alone)) > 200
    for split, threads in (("rows", 3), ("units", 2), ("units", 3), ("units", 7)):
        assert digests(split, threads) == alone, (split, threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes", [(1, 200, 0, 1), (2, 203, 0, 1), (5, 300, 0, 1), (2, 130, 61, 1), (9, 140, 0, 2)]
)
def test_a_step_by_any_number_of_threads_gives_the_same_bits(sizes, dtype) -> None:
    """Shares that end within a vector, of members that meet and of those that need not."""
    B, H, P, layers = sizes
    lstm = StatefulLSTM(H, H, layers, proj_size=P, dtype=dtype).eval()
    indices = torch.arange(B).roll(1)
    indices[B // 2] = -1 if B > 1 else 0
    steps, before = torch.randn(4, 1, B, H, dtype=dtype), torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            lstm.allocate_state(B)
            with torch.inference_mode():
                outputs = [lstm(x, state_indices=indices)[0] for x in steps]
                state = lstm.state
            runs.append([*outputs, state.h, state.c])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(found.equal(alone) for found, alone in zip(run, runs[0], strict=True))


def test_another_name_for_a_split_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        digests("columns", 2)
    assert "STATEFUL_LSTM_SPLIT must be rows or units, got columns" in failed.value.stderr


@pytest.mark.parametrize("sizes", [(40, 1, 192, 0), (12, 2, 300, 70), (6, 3, 520, 0)])
def test_calls_large_enough_to_be_shared_by_units_equal_the_reference(sizes) -> None:
    T, B, H, P = sizes
    lstm = StatefulLSTM(3, H, proj_size=P, stateful=False, dtype=torch.float64)
    x, mask = torch.randn(T, B, 3, dtype=torch.float64), torch.rand(T, B) < 0.1
    found, truth = (
        stateful_lstm.lstm(
            x, None, list(lstm.parameters()), proj_size=P, reset_mask=mask, backend=backend
        )[0]
        for backend in ("cpu", "reference")
    )
    grads = [torch.autograd.grad(y.square().sum(), list(lstm.parameters())) for y in (found, truth)]
    assert_close({"y": found.detach()}, {"y": truth.detach()}, 1e-11)
    assert_close(dict(enumerate(grads[0])), dict(enumerate(grads[1])), 1e-10)


@pytest.mark.sampled(most=1)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("sanitizer", [[], ["-fsanitize=thread"]], ids=["plain", "tsan"])
def test_the_barrier_and_the_gathering(tmp_path, sanitizer) -> None:
    sources = [ROOT / "tests/invariance/thread_team_check.cpp", ROOT / "csrc/cpu/thread_team.cpp"]
    build = ["g++", "-std=c++17", "-O1", "-g", f"-I{ROOT / 'csrc'}", "-pthread", *sanitizer]
    subprocess.run([*build, *sources, "-o", tmp_path / "check"], check=True)
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=False)
    if sanitizer and "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run here: its memory is taken")
    assert done.stdout.strip() == "sound" and not done.returncode, done.stdout + done.stderr
