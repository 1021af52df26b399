"""The candidates for a window with resets: a reset zeroes a row's state before a step.

nn.LSTM has no resets. Libraries for reinforcement learning either call it step by step, or cut the
rows at the resets and pad the pieces to one batch.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cpu.peers import ONEDNN, OURS, our_twin, settings, train_step
from benchmarks.cpu.timing import Candidate
from benchmarks.shapes import Shape

NO_RESETS = f"{OURS}, no resets"
EPISODE = 50  # mean number of steps between resets


def random_resets(shape: Shape) -> Tensor:
    """Random resets, bool (T, B); every row has at least one after its first step."""
    resets = torch.rand(shape.T, shape.B) < 1 / EPISODE
    resets[torch.randint(1, shape.T, (shape.B,)), torch.arange(shape.B)] = True
    return resets


def step_by_step(lstm: nn.LSTM, x: Tensor, resets: Tensor) -> Tensor:
    h = c = x.new_zeros(lstm.num_layers, x.size(1), lstm.hidden_size)
    keep = (~resets).to(x.dtype).unsqueeze(-1)
    outputs = []
    for t in range(x.size(0)):
        output, (h, c) = lstm(x[t : t + 1], (keep[t] * h, keep[t] * c))
        outputs.append(output)
    return torch.cat(outputs)


def split_and_pad(lstm: nn.LSTM, x: Tensor, resets: Tensor) -> Tensor:
    """Every stretch between two resets becomes a row of a padded batch."""
    T, B, width = x.shape
    first = resets.clone()
    first[0] = True
    first = first.T.flatten()  # row after row, so that a stretch is contiguous
    starts = first.nonzero().squeeze(1)
    piece = first.cumsum(0) - 1
    step = torch.arange(T * B, device=x.device) - starts[piece]
    longest = int(step.max()) + 1
    places = step * len(starts) + piece
    pieces = x.new_zeros(longest * len(starts), width)
    pieces = pieces.index_copy(0, places, x.transpose(0, 1).flatten(0, 1))
    output: Tensor = lstm(pieces.view(longest, len(starts), width))[0]
    return output.flatten(0, 1)[places].view(B, T, -1).transpose(0, 1)


def training(lstm: nn.LSTM, x: Tensor, grad: Tensor, resets: Tensor) -> list[Candidate]:
    """Forward and backward; NO_RESETS ignores the resets, to show their cost."""
    ours = our_twin(lstm, stateful=False)
    run = partial(train_step, ours, lambda: ours(x, reset_mask=resets)[0], grad)
    plain = partial(train_step, ours, lambda: ours(x)[0], grad)
    candidates = [
        Candidate(OURS, run, settings(True, inference=False)),
        Candidate(NO_RESETS, plain, settings(True, inference=False)),
    ]
    for method, forward in (("loop over", step_by_step), ("split and pad,", split_and_pad)):
        for name, onednn in ONEDNN.items():
            theirs = partial(train_step, lstm, partial(forward, lstm, x, resets), grad)
            context = settings(onednn, inference=False)
            candidates.append(Candidate(f"{method} {name}", theirs, context))
    return candidates
