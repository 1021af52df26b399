"""Options of the constructor: the forget gate's bias, and dropout in its two places."""

import copy

import pytest
import torch
from state_support import (
    by_hand,
    call,
    close,
    every_mode,
    make,
    noise,
    same_bits,
)


def test_unit_forget_bias_adds_one_at_initialisation_only():
    without, with_it = (
        make(num_layers=2, bidirectional=True),
        make(num_layers=2, bidirectional=True, unit_forget_bias=True),
    )
    forget = slice(5, 10)
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        moved = 0
        for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}"):
            plain_bias, bias = getattr(without, name).detach(), getattr(with_it, name).detach()
            raised = plain_bias.clone()
            raised[forget] += 1
            assert same_bits(bias, plain_bias) or same_bits(bias, raised)
            moved += same_bits(bias, raised)
        assert moved == 1
        for name in (f"weight_ih_{suffix}", f"weight_hh_{suffix}"):
            assert same_bits(getattr(with_it, name), getattr(without, name))
    with_it.load_state_dict(without.state_dict())
    for copied in (with_it, copy.deepcopy(with_it)):
        for ours, theirs in zip(copied.parameters(), without.parameters(), strict=True):
            assert same_bits(ours, theirs)


def window_on_the_mask(p=0.25, hidden=64):
    """A layer whose h shows the mask: f = 0, i = o = 1, g = tanh(0.5 + 0.375 * dropped h)."""
    lstm = make(input_size=1, hidden_size=hidden, recurrent_dropout=p)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.zero_()
        lstm.bias_ih_l0.copy_(torch.tensor([40.0, -40.0, 0.5, 40.0]).repeat_interleave(hidden))
        lstm.weight_hh_l0[2 * hidden : 3 * hidden] = 0.375 * torch.eye(hidden)
    return lstm


def by_equation(scale, steps, h):
    out = []
    for _ in range(steps):
        h = torch.tanh(torch.tanh(0.5 + 0.375 * scale * h))
        out.append(h)
    return torch.stack(out)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 6])
def test_recurrent_dropout_is_one_mask_per_row_for_the_whole_call(steps, grad):
    lstm, p, x = window_on_the_mask(), 0.25, noise(steps, 8, 1)
    h = torch.full((1, 8, 64), 0.3, dtype=torch.float64)
    lstm.allocate_state(8).write((h, h))
    dropped, kept = by_equation(0, steps, h[0]), by_equation(1 / (1 - p), steps, h[0])
    outputs = []
    for start in ({}, {"hx": (h, h)}):
        with lstm.preserve_state():
            outputs.append(call(lstm, x, grad, **start)[0])
        is_dropped = (outputs[-1] - dropped).abs().amax(0) < 1e-9
        is_kept = (outputs[-1] - kept).abs().amax(0) < 1e-9
        assert (is_dropped ^ is_kept).all(), "not one mask, or not scaled by 1 / (1 - p)"
        assert abs(is_dropped.double().mean() - p) < 0.1  # five standard deviations
        assert not (is_dropped == is_dropped[:1]).all(), "the rows share a mask"
    assert not same_bits(*outputs), "two calls share a mask"


@every_mode
def test_dropout_between_layers_is_on_in_training_mode_and_off_in_eval_mode(steps, grad):
    lstm, x = make(num_layers=2, dropout=0.5), noise(steps, 4, 3)
    lstm.allocate_state(4)
    outputs = []
    for training in (True, True, False, False):
        lstm.train(training)
        with lstm.preserve_state():
            outputs.append(call(lstm, x, grad)[0])
    assert not same_bits(outputs[0], outputs[1]) and same_bits(outputs[2], outputs[3])
    close(outputs[2], by_hand(lstm, x)[0])


def test_recurrent_dropout_leaves_output_and_state_whole_and_rests_in_eval_mode():
    lstm = window_on_the_mask()
    y, (h_n, _) = lstm(torch.zeros(6, 8, 1, dtype=torch.float64))
    assert y.all() and same_bits(h_n[0], y[-1]) and same_bits(lstm.state.h, h_n)
    start = lstm.state.read()
    lstm.eval()
    x = torch.zeros(6, 8, 1, dtype=torch.float64)
    close(lstm(x)[0], by_hand(lstm, x, start)[0])


def test_gradients_of_recurrent_dropout_know_the_mask():
    lstm = make(stateful=False, recurrent_dropout=0.5, num_layers=2)

    def run(x):
        torch.manual_seed(3)
        return lstm(x)[0]

    x = noise(3, 1, 3).requires_grad_()
    assert not same_bits(run(x), lstm.eval()(x)[0])
    lstm.train()
    assert torch.autograd.gradcheck(run, (x,))
