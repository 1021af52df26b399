"""Results of training are ordinary tensors: changed in place, hooked, in part without gradients."""

import pytest
import torch

from stateful_lstm import StatefulLSTM

# (T, B): on the fast path and beyond it.
SHAPES = [(4, 3), (129, 8)]
OPTIONS = [{}, {"recompute": "gates"}, {"recompute": "segments"}, {"num_layers": 2}]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
options = pytest.mark.parametrize("options", OPTIONS, ids=str)


@shapes
@options
def test_final_states_may_change_in_place_before_backward(shape, options):
    lstm, x = StatefulLSTM(5, 8, **options), torch.randn(*shape, 5)
    y, (h, c) = lstm(x)
    h[:, 0] = 0
    c.mul_(2)
    (y.sum() + h.sum() + c.sum()).backward()
    with torch.no_grad():
        _, (h, _) = lstm(x)
        h.zero_()


@options
def test_a_hook_of_an_unused_result_is_not_called(options):
    lstm = StatefulLSTM(5, 8, **options)
    y, (h, c) = lstm(torch.randn(129, 8, 5))
    for state in (h, c):
        state.register_hook(lambda grad: grad * 2)
    y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [8, 48])
def test_frozen_lower_layers_give_the_bits_of_training(dtype, size):
    lstm = StatefulLSTM(8, size, 2, dtype=dtype, stateful=False)
    x = torch.randn(1, 1, 8, dtype=dtype)
    expected = lstm(x)[0]
    for name, weight in lstm.named_parameters():
        weight.requires_grad_("l0" not in name)
    assert torch.equal(lstm(x)[0], expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_batch_without_rows_takes_any_strides(layers):
    lstm = StatefulLSTM(8, 20, layers)
    with torch.no_grad():
        assert lstm(torch.randn(3, 0, 8, 2)[..., 0])[0].shape == (3, 0, 20)
