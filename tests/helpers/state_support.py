"""A seeded layer, four kinds of calls, an oracle, and checks that no state changes."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from stateful_lstm import StatefulLSTM

# The four kinds of calls: inference and training, each with one step and with several.
every_mode = pytest.mark.parametrize(
    ("steps", "grad"),
    [(1, False), (4, False), (1, True), (4, True)],
    ids=["step", "infer", "train_step", "train"],
)


def make(seed=0, input_size=3, hidden_size=5, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    return StatefulLSTM(input_size, hidden_size, dtype=dtype, **options)


def noise(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def call(lstm, x, grad=False, **options):
    with torch.set_grad_enabled(grad):
        return lstm(x, **options)


def plain(lstm):
    """An nn.LSTM with the weights that `lstm` has at this moment."""
    parallel = nn.LSTM(
        lstm.input_size,
        lstm.hidden_size,
        lstm.num_layers,
        lstm.bias,
        lstm.batch_first,
        lstm.dropout,
        lstm.bidirectional,
        lstm.proj_size,
        dtype=lstm.weight_ih_l0.dtype,
    )
    weights = {name: getattr(lstm, name).detach() for name in parallel.state_dict()}
    parallel.load_state_dict(weights)
    return parallel.train(lstm.training)


def by_hand(lstm, x, hx=None, reset_mask=None, lengths=None):
    """Resets and lengths as a Python loop over single steps of nn.LSTM (one direction only)."""
    assert not lstm.bidirectional
    oracle, (steps, batch) = plain(lstm), x.shape[:2]
    if hx is None:
        hx = (
            x.new_zeros(lstm.num_layers, batch, lstm.proj_size or lstm.hidden_size),
            x.new_zeros(lstm.num_layers, batch, lstm.hidden_size),
        )
    h, c = hx
    out = []
    for t in range(steps):
        live = torch.ones(batch, dtype=torch.bool) if lengths is None else t < lengths
        cut = torch.zeros(batch, dtype=torch.bool) if reset_mask is None else reset_mask[t] & live
        h0, c0 = (torch.where(cut[:, None], torch.zeros_like(s), s) for s in (h, c))
        y, (h1, c1) = oracle(x[t : t + 1], (h0, c0))
        h, c = torch.where(live[:, None], h1, h), torch.where(live[:, None], c1, c)
        out.append(torch.where(live[:, None], y, torch.zeros_like(y)))
    return torch.cat(out) if out else x.new_zeros(0, batch, h.shape[-1]), (h, c)


def bits(tensor):
    """The tensor as integers: equality means the same bits, NaN included."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(width).clone()


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def addresses(lstm):
    return lstm.state.h.data_ptr(), lstm.state.c.data_ptr()


def snapshot(state):
    """Values and addresses of an LSTMState, or None."""
    if state is None:
        return None
    return bits(state.h), bits(state.c), state.h.data_ptr(), state.c.data_ptr(), state.slots


def assert_unmoved(before, state):
    after = snapshot(state)
    if before is None or after is None:
        assert before is None and after is None
        return
    assert torch.equal(before[0], after[0]), "h moved"
    assert torch.equal(before[1], after[1]), "c moved"
    assert before[2:] == after[2:], "the buffers were replaced"


@contextlib.contextmanager
def refused(kinds, *words, untouched=()):
    """Checks that the block raises one of `kinds` with every word, and that no state changes."""
    before = [(owner, snapshot(owner.state)) for owner in untouched]
    with pytest.raises(kinds) as caught:
        yield
    text = str(caught.value)
    for word in words:
        assert word.lower() in text.lower(), f"{word!r} is not in: {text}"
    for owner, was in before:
        assert_unmoved(was, owner.state)


def close(a, b, **options):
    torch.testing.assert_close(a, b, **options)
