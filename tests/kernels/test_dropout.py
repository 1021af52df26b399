"""Dropout between layers draws the masks that nn.LSTM draws."""

import pytest
import torch
from comparisons import (
    MARKS,
    assert_close,
    module_results,
    tolerance,
    twin,
)
from parity_support import B, H, I, T, backends, dense, functional, packed_results
from torch import nn

pytestmark = MARKS


DROPPED = {
    "dense": {},
    "batch-first": {"batch_first": True},
    "both-ways": {"bidirectional": True},
    "projected": {"proj_size": 3},
    "batch-first-both-ways-projected": {
        "batch_first": True, "bidirectional": True, "proj_size": 3,
    },
}  # fmt: skip
dropped = pytest.mark.parametrize("config", DROPPED.values(), ids=DROPPED.keys())


def seeded(call):
    """call() from a fixed seed, with the random numbers it leaves behind."""
    torch.manual_seed(3)
    got = call()
    return got, torch.get_rng_state()


def check_same_draws(ours, theirs, dtype=torch.float64, steps=3 * T, width=4 * H + T * B):
    got, left = seeded(ours)
    expected, theirs_left = seeded(theirs)
    assert_close(got, expected, tolerance(dtype, steps, width))
    assert torch.equal(left, theirs_left)


@dropped
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dropout_draws_nn_lstms_masks(config, dtype):
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=dtype, **config)
    ours, x = twin(lstm, stateful=False), dense(lstm)
    check_same_draws(lambda: module_results(ours, x), lambda: module_results(lstm, x), dtype)


@dropped
@backends
def test_dropout_draws_nn_lstms_masks_on_each_backend(config, backend):
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64, **config)
    x = dense(lstm)
    check_same_draws(lambda: functional(lstm, backend)(x), lambda: module_results(lstm, x))


@dropped
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4]], ids=str)
def test_dropout_draws_nn_lstms_masks_when_packed(config, lengths):
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64, **config)
    ours, x = twin(lstm, stateful=False), dense(lstm)
    check_same_draws(
        lambda: packed_results(ours, x, lengths), lambda: packed_results(lstm, x, lengths)
    )


def test_dropout_draws_nn_lstms_masks_when_unbatched():
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64)
    ours, x = twin(lstm, stateful=False), torch.randn(T, I).double()
    check_same_draws(lambda: module_results(ours, x), lambda: module_results(lstm, x))


def test_dropout_of_everything():
    lstm = nn.LSTM(I, H, 2, dropout=1.0, dtype=torch.float64)
    ours, x = twin(lstm, stateful=False), dense(lstm)
    check_same_draws(lambda: module_results(ours, x), lambda: module_results(lstm, x))


def test_no_dropout_in_eval_mode():
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64).eval()
    before = torch.get_rng_state()
    x = dense(lstm)
    ours = twin(lstm, stateful=False)
    torch.set_rng_state(before)
    got = module_results(ours, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(got, module_results(lstm, x), tolerance(x.dtype, 3 * T, 4 * H + T * B))
