"""Packed sequences give the results and gradients of nn.LSTM."""

import copy

import pytest
import torch
from comparisons import (
    MARKS,
    assert_as_good_as,
    assert_close,
    double,
    random_hx,
    tolerance,
    twin,
)
from parity_support import (
    B,
    H,
    I,
    T,
    configs,
    dense,
    packed_results,
    with_hx,
)
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from stateful_lstm import StatefulLSTM

pytestmark = MARKS


@configs
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4], [5, 5, 5]], ids=str)
@with_hx
def test_packed_sequences(config, lengths, given):
    lstm = nn.LSTM(I, H, dtype=torch.float64, **config)
    x, hx = dense(lstm), random_hx(lstm, B) if given else None
    truth = packed_results(lstm, x, lengths, hx)
    got = packed_results(twin(lstm, stateful=False), x, lengths, hx)
    assert_close(got, truth, tolerance(x.dtype, 3 * T, 4 * H + T * B))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_sequences_in_lower_precision(dtype):
    lstm = nn.LSTM(I, H, num_layers=2, bidirectional=True, dtype=dtype)
    x, hx, lengths = dense(lstm), random_hx(lstm, B), [2, 5, 4]
    truth = packed_results(copy.deepcopy(lstm).double(), double(x), lengths, double(hx))
    ours = packed_results(twin(lstm, stateful=False), x, lengths, hx)
    assert_as_good_as(ours, packed_results(lstm, x, lengths, hx), truth)


@pytest.mark.parametrize("extra", ["reset_mask", "lengths"])
def test_packed_sequences_refuse_masks_and_lengths(extra):
    packed = pack_sequence([torch.randn(3, I), torch.randn(2, I)])
    value = {
        "reset_mask": torch.zeros(3, 2, dtype=torch.bool),
        "lengths": torch.tensor([3, 2]),
    }[extra]
    with pytest.raises(ValueError, match=extra):
        StatefulLSTM(I, H, stateful=False)(packed, **{extra: value})
