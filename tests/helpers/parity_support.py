"""The settings of nn.LSTM, and comparisons with its results and gradients."""

import copy

import pytest
import torch
from comparisons import (
    BACKENDS,
    DTYPES,
    assert_as_good_as,
    assert_close,
    double,
    module_results,
    results,
    settings,
    tolerance,
    twin,
)
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import stateful_lstm

T, B, I, H = 5, 3, 6, 7  # noqa: E741

CONFIGS = {
    "plain": {},
    "2-layers": {"num_layers": 2},
    "3-layers-both-ways": {"num_layers": 3, "bidirectional": True},
    "both-ways": {"bidirectional": True},
    "projected": {"proj_size": 3},
    "2-layers-both-ways-projected": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "no-bias": {"bias": False},
    "no-bias-3-layers-projected": {"bias": False, "num_layers": 3, "proj_size": 6},
    "batch-first-2-layers": {"batch_first": True, "num_layers": 2},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
backends = pytest.mark.parametrize("backend", BACKENDS)
with_hx = pytest.mark.parametrize("given", [True, False], ids=["hx", "no-hx"])


def dense(lstm, steps=T, batch=B):
    """A random input in an LSTM's layout and dtype."""
    shape = (batch, steps) if lstm.batch_first else (steps, batch)
    return torch.randn(*shape, lstm.input_size).to(next(lstm.parameters()))


def functional(lstm, backend, **extras):
    """The results of stateful_lstm.lstm with the weights and settings of a module."""

    def compute(x, hx=None):
        weights = dict(lstm.named_parameters())
        keywords = settings(lstm) | {"backend": backend} | extras
        return results(
            lambda x, hx: stateful_lstm.lstm(x, hx, list(weights.values()), **keywords),
            x,
            hx,
            weights,
        )

    return compute


def check(ours, lstm, x, hx=None):
    """Checks that ours(x, hx) is as good as nn.LSTM, in outputs and in every gradient."""
    theirs = module_results(lstm, x, hx)
    if x.dtype == torch.float64:
        steps, width = lstm.num_layers * T, x.shape[-1] + 4 * lstm.hidden_size + x.shape[0] * B
        assert_close(ours(x, hx), theirs, tolerance(x.dtype, steps, width))
    else:
        truth = module_results(copy.deepcopy(lstm).double(), double(x), double(hx))
        assert_as_good_as(ours(x, hx), theirs, truth)


def check_module(lstm, x, hx=None):
    check(lambda x, hx: module_results(twin(lstm, stateful=False), x, hx), lstm, x, hx)


def packed_results(lstm, x, lengths, hx=None):
    """The results of a module on x as a PackedSequence, for lengths in any order."""
    in_order = sorted(lengths, reverse=True) == lengths

    def call(x, hx):
        packed = pack_padded_sequence(x, lengths, lstm.batch_first, enforce_sorted=in_order)
        output, states = lstm(packed, hx)
        assert isinstance(output, PackedSequence)
        for got, expected in zip(output[1:], packed[1:], strict=True):
            assert (got is None and expected is None) or torch.equal(got, expected)
        return output.data, states

    return results(call, x, hx, dict(lstm.named_parameters()))
