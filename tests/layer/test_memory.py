"""Memory of large outputs goes from call to call, but never while a tensor still uses it."""

import os
import subprocess
import sys

import pytest
import torch

from stateful_lstm import StatefulLSTM

T, B, INPUTS, H = 64, 16, 5, 256  # an output of 1 MiB, from which on it is so
MODES = {
    "on a state": {"stateful": True},
    "on a state, rows first": {"stateful": True, "batch_first": True},
    "on a state, three layers": {"stateful": True, "num_layers": 3},
    "on a state, both directions": {"stateful": True, "bidirectional": True},
    "plain": {"stateful": False},
    "plain, both directions": {"stateful": False, "bidirectional": True},
}


def layer_and_inputs(mode, count):
    torch.manual_seed(0)
    layer = StatefulLSTM(INPUTS, H, **MODES[mode]).eval()
    return layer, torch.randn(count, *((B, T) if layer.batch_first else (T, B)), INPUTS)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("mode", MODES)
def test_outputs_that_are_held_stay_as_they_are(mode, grad):
    layer, inputs = layer_and_inputs(mode, 6)
    held, copies = [], []
    with torch.set_grad_enabled(grad):
        for k, x in enumerate(inputs):
            y = layer(x)[0]
            held.append(y[-1] if k % 2 else y)  # a part holds all of it
            copies.append(held[-1].detach().clone())
            del y
            if k == 3:
                del held[0], copies[0]  # whose memory another may have now
    places = [part.untyped_storage().data_ptr() for part in held]
    assert len(set(places)) == len(places)
    for part, copy in zip(held, copies, strict=True):
        assert torch.equal(part.detach(), copy)


@pytest.mark.skipif(
    "STATEFUL_LSTM_SANITIZE" in os.environ, reason="nothing stays, so that it is watched"
)
@pytest.mark.parametrize("mode", MODES)
def test_memory_of_an_output_that_has_gone_is_used_again(mode):
    layer, inputs = layer_and_inputs(mode, 12)
    with torch.inference_mode():
        places = {layer(x)[0].untyped_storage().data_ptr() for x in inputs}
    assert len(places) <= 2


@pytest.mark.skipif(
    "STATEFUL_LSTM_SANITIZE" in os.environ, reason="nothing stays, so that it is watched"
)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_each_bucket_of_lengths_finds_the_memory_of_its_last_batch(grad):
    """As an executor does that is kept for each length of sequences."""
    torch.manual_seed(0)
    layer = StatefulLSTM(INPUTS, H, stateful=False).train(grad)
    buckets = [(T, B), (2 * T, B), (3 * T, B // 2)]
    rounds = []
    with torch.set_grad_enabled(grad):
        for _ in range(6):
            places = set()
            for steps, rows in buckets:
                y = layer(torch.randn(steps, rows, INPUTS))[0]
                places.add(y.untyped_storage().data_ptr())
                if grad:
                    y.sum().backward()
                    layer.zero_grad()
                del y
            rounds.append(places)
    # Whatever the first two rounds have taken is enough for all that follow.
    assert set.union(*rounds[2:]) <= set.union(*rounds[:2])


GROWTH = """
import torch
from stateful_lstm import StatefulLSTM

def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

T, B, I, H = 40_000, 4, 8, 128
lstm = StatefulLSTM(I, H, recompute="segments", stateful=False)
lstm(torch.randn(100, B, I))[0].sum().backward()
x = torch.randn(T, B, I)
before = resident("VmRSS")
lstm(x)[0].sum().backward()
print((resident("VmHWM") - before) / (4 * T * B * H))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux")
@pytest.mark.skipif("STATEFUL_LSTM_SANITIZE" in os.environ, reason="whose memory it would be")
def test_segments_take_little_more_than_the_outputs():
    command = [sys.executable, "-c", GROWTH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # The outputs, and what one range of steps needs; they were twice the outputs once.
    assert 1 < float(done.stdout) < 1.5, done.stdout
