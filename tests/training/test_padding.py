"""``ContinuousBatches`` warns once, on construction, about rows that stay empty."""

import copy
import warnings

import pytest
import torch
from torch.utils.data import Dataset

from stateful_lstm.data import ContinuousBatches


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        return self.items[k]


def steps(*lengths):
    return [torch.ones(n, 1) for n in lengths]


@pytest.mark.parametrize(
    ("sequences", "shape", "text"),
    [
        (steps(1000), {"batch_size": 8}, "88% of .* 1 sequence in 8 rows"),
        (steps(50, 50, 50), {"batch_size": 2, "world_size": 2}, "25% of .* 3 sequences in 4 rows"),
        (steps(500, 50, 50, 50), {"batch_size": 4}, "68% of .* 4 sequences in 4 rows"),
        (steps(20), {"batch_size": 1}, "60% of .* in windows of 50 steps"),
        (Items(steps(50)), {"batch_size": 4}, "at least 75% of"),
    ],
)
def test_padding_is_told_once_where_the_data_is_made(sequences, shape, text):
    with pytest.warns(UserWarning, match=text) as told:
        data = ContinuousBatches(sequences, window=50, **shape)
    assert len(told) == 1 and told[0].filename == __file__
    assert "Use fewer rows or a shorter window, or cut long series" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(copy.deepcopy(data))


def test_the_share_is_that_of_the_windows():
    with pytest.warns(UserWarning, match="68% of"):
        data = ContinuousBatches(steps(500, 50, 50, 50), 4, 50)
    windows = list(data)
    there = sum(int(w.lengths.sum()) for w in windows)
    assert 1 - there / (len(windows) * 4 * 50) == pytest.approx(0.675)


def test_what_is_well_filled_is_not_warned_of():
    ContinuousBatches(steps(100), 1, 50)
    ContinuousBatches(steps(100, 100, 100, 40), 4, 50)
    ContinuousBatches(steps(25), 1, 50)  # half, and not more
    ContinuousBatches(Items(steps(1, 500)), 2, 50)  # lengths are not known yet
