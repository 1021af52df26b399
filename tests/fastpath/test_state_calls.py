"""Stateful calls with `hx`, gradients, two directions, and every form of input."""

import pytest
import torch
from state_support import (
    assert_unmoved,
    by_hand,
    call,
    close,
    every_mode,
    make,
    noise,
    plain,
    same_bits,
    snapshot,
)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@every_mode
def test_hx_wins_and_the_final_state_becomes_resident(steps, grad):
    lstm = make(num_layers=2)
    call(lstm, noise(steps, 4, 3), grad)
    x, hx = noise(steps, 4, 3, seed=2), (noise(2, 4, 5, seed=3), noise(2, 4, 5, seed=4))
    expected, (h, c) = plain(lstm)(x, hx)
    y, (h_n, c_n) = call(lstm, x, grad, hx=hx)
    close(y, expected)
    close(lstm.state.h, h)
    close(lstm.state.c, c)
    assert same_bits(lstm.state.h, h_n) and same_bits(lstm.state.c, c_n)


def test_hx_on_the_first_call_makes_the_resident_state():
    lstm = make()
    _, (h_n, c_n) = lstm(noise(2, 4, 3), (noise(1, 4, 5, seed=3), noise(1, 4, 5, seed=4)))
    assert same_bits(lstm.state.h, h_n) and same_bits(lstm.state.c, c_n)


def test_hx_and_state_together_start_from_hx_and_end_in_that_state():
    lstm = make()
    other, hx = lstm.new_state(4), (noise(1, 4, 5, seed=3), noise(1, 4, 5, seed=4))
    y, (h_n, c_n) = lstm(noise(2, 4, 3), hx, state=other)
    close(y, plain(lstm)(noise(2, 4, 3), hx)[0])
    assert same_bits(other.h, h_n) and same_bits(other.c, c_n)
    assert lstm.state is None


@every_mode
def test_the_state_itself_may_be_handed_in_as_hx(steps, grad):
    lstm = make()
    x = noise(2 * steps, 4, 3)
    expected, (h, c) = by_hand(lstm, x)
    first = call(lstm, x[:steps], grad)[0]
    second = call(lstm, x[steps:], grad, hx=(lstm.state.h, lstm.state.c))[0]
    close(torch.cat([first, second]), expected)
    close(lstm.state.h, h)
    close(lstm.state.c, c)


@pytest.mark.parametrize("part", ["h", "c"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_state_itself_may_be_fed_as_the_input(part, grad, bidirectional):
    """A generator that feeds its state back: the call must not write what it still reads."""
    lstm, other = (make(0, 20, 20, num_layers=2, bidirectional=bidirectional) for _ in "ab")
    for layer in range(4 if bidirectional else 2):
        for each in (lstm, other):
            each.allocate_state(3)
            call(each, noise(3, 3, 20))
        y, _ = call(lstm, getattr(lstm.state, part)[layer : layer + 1], grad)
        expected, _ = call(other, getattr(other.state, part)[layer : layer + 1].clone(), grad)
        assert same_bits(y, expected)
        assert same_bits(lstm.state.h, other.state.h)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_flow_to_hx_and_through_several_calls_by_hx(steps):
    lstm, oracle = make(), plain(make())
    x = noise(2 * steps, 4, 3)
    results = []
    for layer, cut in ((lstm, True), (oracle, False)):
        hx = (noise(1, 4, 5, seed=3).requires_grad_(), noise(1, 4, 5, seed=4).requires_grad_())
        given = x.clone().requires_grad_()
        if cut:
            _, carried = layer(given[:steps], hx)
            y, _ = layer(given[steps:], carried)
        else:
            y = layer(given, hx)[0][steps:]
        y.square().sum().backward()
        results.append([given.grad, *(t.grad for t in hx), *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_stop_at_the_call_boundary(steps):
    lstm, oracle = make(), plain(make())
    first, second = noise(steps, 4, 3), noise(steps, 4, 3, seed=2)
    first.requires_grad_()
    _, (h, c) = lstm(first)
    y, _ = lstm(second.requires_grad_())
    y.square().sum().backward()
    assert first.grad is None or not first.grad.any()
    oracle(noise(steps, 4, 3, seed=2), (h.detach(), c.detach()))[0].square().sum().backward()
    for ours, theirs in zip(lstm.parameters(), oracle.parameters(), strict=True):
        close(ours.grad, theirs.grad)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("layers", [1, 2])
def test_two_directions_carry_forward_and_start_the_reverse_from_zero(steps, grad, layers):
    lstm = make(num_layers=layers, bidirectional=True)
    oracle, hx = plain(lstm), None
    for seed in (1, 2, 3):
        x = noise(steps, 4, 3, seed=seed)
        y, (h_n, c_n) = call(lstm, x, grad)
        expected, (h, c) = oracle(x, hx)
        close(y, expected)
        close(h_n, h)
        close(c_n, c)
        forward = torch.arange(2 * layers)[:, None, None] % 2 == 0
        hx = tuple(torch.where(forward, s, torch.zeros_like(s)) for s in (h, c))


def test_hx_given_to_two_directions_serves_both():
    lstm = make(bidirectional=True)
    hx = (noise(2, 4, 5, seed=3), noise(2, 4, 5, seed=4))
    close(lstm(noise(3, 4, 3), hx)[0], plain(lstm)(noise(3, 4, 3), hx)[0])


@pytest.mark.parametrize("grad", [False, True])
def test_no_steps_change_nothing(grad):
    lstm = make(num_layers=2)
    call(lstm, noise(3, 4, 3), grad)
    before = snapshot(lstm.state)
    y, (h_n, c_n) = call(lstm, noise(0, 4, 3), grad)
    assert y.shape == (0, 4, 5)
    assert same_bits(h_n, lstm.state.h) and same_bits(c_n, lstm.state.c)
    assert_unmoved(before, lstm.state)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("slots", [None, [3, 0, 1, 2], [2, -1, 0, 4]], ids=str)
def test_rows_without_steps_keep_the_state_of_both_directions(grad, slots):
    lstm = make(bidirectional=True, num_layers=2)
    state = lstm.allocate_state(4 if slots is None else 5)
    state.write((noise(4, state.slots, 5, seed=2), noise(4, state.slots, 5, seed=3)))
    before, (h, c) = snapshot(state), state.read()
    indices = None if slots is None else torch.tensor(slots)
    call(lstm, noise(0, 4, 3), grad, state_indices=indices)
    assert_unmoved(before, state)
    call(lstm, noise(3, 4, 3), grad, state_indices=indices, lengths=torch.tensor([0, 3, 0, 1]))
    idle = [0, 2] if slots is None else [slots[0], slots[2]]
    assert same_bits(state.h[:, idle], h[:, idle]) and same_bits(state.c[:, idle], c[:, idle])
    busy = 3 if slots is None else slots[3]
    assert (state.h[:, busy] != h[:, busy]).all()


def test_no_steps_may_come_first_and_in_every_form():
    lstm = make()
    assert lstm(noise(0, 4, 3))[0].shape == (0, 4, 5)
    assert lstm.state is None or not lstm.state.h.any()
    assert make(batch_first=True)(noise(4, 0, 3))[0].shape == (4, 0, 5)
    assert make()(noise(0, 3))[0].shape == (0, 5)
    y, _ = make()(noise(0, 4, 3), reset_mask=torch.zeros(0, 4, dtype=torch.bool))
    assert y.shape == (0, 4, 5)
    y, _ = make()(noise(0, 4, 3), lengths=torch.zeros(4, dtype=torch.int64))
    assert y.shape == (0, 4, 5)


def test_no_steps_hand_hx_through_with_its_gradient():
    lstm = make()
    hx = (noise(1, 4, 5).requires_grad_(), noise(1, 4, 5, seed=2).requires_grad_())
    _, (h_n, c_n) = lstm(noise(0, 4, 3), hx)
    assert same_bits(h_n, hx[0]) and same_bits(c_n, hx[1])
    assert same_bits(lstm.state.h, hx[0]) and same_bits(lstm.state.c, hx[1])
    (2 * h_n.sum() + 3 * c_n.sum()).backward()
    assert (hx[0].grad == 2).all() and (hx[1].grad == 3).all()


@every_mode
def test_unbatched_input_keeps_one_row_of_state(steps, grad):
    lstm = make(num_layers=2)
    x = noise(3 * steps, 1, 3)
    expected, (h, c) = by_hand(lstm, x)
    first, (h_n, c_n) = call(lstm, x[:steps, 0], grad)
    assert first.shape == (steps, 5) and h_n.shape == (2, 5) and c_n.shape == (2, 5)
    assert lstm.state.slots == 1
    second = call(lstm, x[steps : 2 * steps], grad)[0][:, 0]  # the same stream, as a batch of one
    third = call(lstm, x[2 * steps :, 0], grad)[0]
    close(torch.cat([first, second, third]), expected[:, 0])
    close(lstm.state.h, h)
    close(lstm.state.c, c)


@pytest.mark.parametrize("grad", [False, True])
def test_unbatched_input_takes_a_mask_and_hx_without_a_batch(grad):
    lstm = make()
    x, mask = noise(4, 1, 3), torch.tensor([False, False, True, False])
    hx = (noise(1, 1, 5, seed=3), noise(1, 1, 5, seed=4))
    expected, _ = by_hand(lstm, x, hx, mask[:, None])
    y, _ = call(lstm, x[:, 0], grad, hx=(hx[0][:, 0], hx[1][:, 0]), reset_mask=mask)
    close(y, expected[:, 0])


@every_mode
def test_batch_first_turns_input_output_and_mask_but_not_the_state(steps, grad):
    straight, turned = make(num_layers=2), make(num_layers=2, batch_first=True)
    for seed in (1, 2):
        x = noise(steps, 4, 3, seed=seed)
        mask = torch.zeros(steps, 4, dtype=torch.bool)
        mask[0, 2] = True
        y, (h, c) = call(straight, x, grad, reset_mask=mask)
        y_turned, (h_turned, c_turned) = call(turned, x.transpose(0, 1), grad, reset_mask=mask.T)
        close(y_turned.transpose(0, 1), y)
        close(h_turned, h)
        close(c_turned, c)
        assert turned.state.h.shape == straight.state.h.shape == (2, 4, 5)
        close(turned.state.h, straight.state.h)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_input_equals_padded_input_with_lengths(grad, bidirectional, batch_first):
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "num_layers": 2}
    packed_lstm, padded_lstm = make(**options), make(**options)
    for seed, lengths in [(1, [2, 5, 1, 3]), (2, [4, 1, 4, 2]), (3, [1, 1, 1, 1])]:
        lengths = torch.tensor(lengths)
        x = noise(4, int(lengths.max()), 3, seed=seed)
        x = x if batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
        y, (h, c) = call(packed_lstm, packed, grad)
        expected, (h_padded, c_padded) = call(padded_lstm, x, grad, lengths=lengths)
        close(pad_packed_sequence(y, batch_first)[0], expected)
        close(h, h_padded)  # rows in the user's order, not the packed one
        close(c, c_padded)
        close(packed_lstm.state.h, padded_lstm.state.h)
        close(packed_lstm.state.c, padded_lstm.state.c)


def test_packed_rows_continue_in_the_users_order():
    lstm = make()
    x = noise(7, 3, 3)
    lengths = [torch.tensor([1, 4, 2]), torch.tensor([3, 1, 2])]
    rows = [by_hand(lstm, x[: int(sum(n[b] for n in lengths)), b : b + 1])[0] for b in range(3)]
    seen = [[], [], []]
    for part in lengths:
        pieces = [x[len(torch.cat(s)) if s else 0 :, b][: part[b]] for b, s in enumerate(seen)]
        padded = torch.nn.utils.rnn.pad_sequence(pieces)
        y, _ = lstm(pack_padded_sequence(padded, part, enforce_sorted=False))
        y, _ = pad_packed_sequence(y)
        for b, s in enumerate(seen):
            s.append(y[: part[b], b])
    for row, expected in zip(seen, rows, strict=True):
        close(torch.cat(row), expected[:, 0])


def test_packed_input_in_sorted_order_is_carried_on_too():
    lstm = make()
    x = noise(4, 3, 3)
    for _ in range(2):
        lstm(pack_padded_sequence(x, torch.tensor([4, 3, 1])))
    once = by_hand(lstm, x, lengths=torch.tensor([4, 3, 1]))[1]
    twice = by_hand(lstm, x, once, lengths=torch.tensor([4, 3, 1]))[1]
    close(lstm.state.h, twice[0])
    close(lstm.state.c, twice[1])
