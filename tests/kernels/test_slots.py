"""Slots: any subset of the streams, in any order, with padding rows, in one batch."""

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
    refused,
    same_bits,
    snapshot,
)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SLOTS = 6
# Sums are taken wide, so a 16-bit type is rounded once per step and layer; the wide ones 64 times:
# 8 terms in a sum, 4 steps, 2 layers.
TOLERANCE = {
    dtype: dict.fromkeys(("rtol", "atol"), roundings * torch.finfo(dtype).eps / 2)
    for dtype, roundings in {
        torch.float32: 64,
        torch.float64: 64,
        torch.bfloat16: 8,
        torch.float16: 8,
    }.items()
}
every_index_dtype = pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)


def filled(seed=7, **options):
    """A layer whose slots all hold something."""
    lstm = make(**options)
    h, c = lstm.allocate_state(SLOTS).read()
    lstm.state.write(
        (noise(*h.shape, seed=seed, dtype=h.dtype), noise(*c.shape, seed=seed + 1, dtype=c.dtype))
    )
    return lstm


@every_mode
@every_index_dtype
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [[4, 1, 3], [5, -1, 0, -1, -1, 2], [-1]], ids=str)
def test_rows_read_and_write_their_slots_and_no_other(steps, grad, index_dtype, dtype, rows):
    lstm = filled(num_layers=2, dtype=dtype)
    h, c = lstm.state.read()
    x = noise(steps, len(rows), 3, dtype=dtype)
    live = [b for b, slot in enumerate(rows) if slot >= 0]
    slots = [rows[b] for b in live]
    y, (h_n, c_n) = call(lstm, x, grad, state_indices=torch.tensor(rows, dtype=index_dtype))
    assert y.shape == (steps, len(rows), 5) and h_n.shape == c_n.shape == (2, len(rows), 5)

    for b, slot in enumerate(rows):
        if slot < 0:
            assert not y[:, b].any()
    for slot in set(range(SLOTS)) - set(slots):
        assert same_bits(lstm.state.h[:, slot], h[:, slot])
        assert same_bits(lstm.state.c[:, slot], c[:, slot])
    if live:
        loose = TOLERANCE[dtype]
        hx = (h[:, slots].double(), c[:, slots].double())
        expected, (h_end, c_end) = plain(make(num_layers=2, dtype=dtype).double())(
            x[:, live].double(), hx
        )
        close(y[:, live].double(), expected, **loose)
        close(lstm.state.h[:, slots].double(), h_end, **loose)
        close(lstm.state.c[:, slots].double(), c_end, **loose)
        assert same_bits(h_n[:, live], lstm.state.h[:, slots])


@every_mode
def test_streams_in_changing_company_equal_each_stream_alone(steps, grad):
    lstm = make(num_layers=2)
    lstm.allocate_state(SLOTS)
    streams = [noise(4 * steps, 1, 3, seed=20 + s) for s in range(SLOTS)]
    expected = [by_hand(lstm, stream)[0] for stream in streams]
    position = [0] * SLOTS
    batches = [[3, 0], [5, 3, -1, 1], [2, 4, 0, 1, 3], [-1, -1], [1], [3, 2, 5, 0]]
    for batch in batches:
        parts = [
            streams[s][position[s] * steps : (position[s] + 1) * steps]
            if s >= 0
            else noise(steps, 1, 3)
            for s in batch
        ]
        y, _ = call(lstm, torch.cat(parts, 1), grad, state_indices=torch.tensor(batch))
        for b, s in enumerate(batch):
            if s >= 0:
                start = position[s] * steps
                close(y[:, b], expected[s][start : start + steps, 0])
                position[s] += 1
    assert position == [3, 3, 2, 4, 1, 2]


@every_mode
def test_a_start_resets_only_its_own_stream(steps, grad):
    lstm = filled()
    lstm.state.h[:, 4] = float("nan")
    lstm.state.c[:, 4] = float("inf")
    h, c = lstm.state.read()
    start = torch.zeros(steps, 3, dtype=torch.bool)
    start[0, 1] = True
    x = noise(steps, 3, 3)
    y, _ = call(lstm, x, grad, state_indices=torch.tensor([2, 4, 0]), reset_mask=start)
    hx = (h[:, [2, 4, 0]].clone(), c[:, [2, 4, 0]].clone())
    hx[0][:, 1] = hx[1][:, 1] = 0
    expected, (h_end, c_end) = plain(lstm)(x, hx)
    close(y, expected)
    close(lstm.state.h[:, [2, 4, 0]], h_end)
    close(lstm.state.c[:, [2, 4, 0]], c_end)


@pytest.mark.parametrize("grad", [False, True])
def test_slots_lengths_and_resets_together(grad):
    lstm = filled(num_layers=2)
    h, c = lstm.state.read()
    rows, lengths = torch.tensor([3, -1, 0, 5]), torch.tensor([4, 3, 0, 2])
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[2, 0] = mask[1, 3] = mask[3, 3] = mask[0, 2] = mask[0, 1] = True
    x, live = noise(4, 4, 3), [0, 2, 3]
    y, _ = call(lstm, x, grad, state_indices=rows, reset_mask=mask, lengths=lengths)
    slots = rows[live]
    expected, (h_end, c_end) = by_hand(
        lstm, x[:, live], (h[:, slots], c[:, slots]), mask[:, live], lengths[live]
    )
    close(y[:, live], expected)
    assert not y[:, 1].any()
    close(lstm.state.h[:, slots], h_end)
    close(lstm.state.c[:, slots], c_end)
    assert same_bits(lstm.state.h[:, 0], h[:, 0]), "a row of length 0 keeps its slot"
    for slot in (1, 2, 4):
        assert same_bits(lstm.state.h[:, slot], h[:, slot])


@every_mode
def test_nan_in_a_padding_row_harms_nobody(steps, grad):
    clean, dirty = filled(num_layers=2), filled(num_layers=2)
    x, rows = noise(steps, 3, 3), torch.tensor([4, -1, 2])
    poisoned = x.clone()
    poisoned[:, 1] = float("nan")
    results = []
    for lstm, given in ((clean, x), (dirty, poisoned)):
        given = given.clone().requires_grad_(grad)
        y, _ = call(lstm, given, grad, state_indices=rows)
        results.append([y, lstm.state.h, lstm.state.c])
        if grad:
            y.square().sum().backward()
            results[-1] += [given.grad, *(p.grad for p in lstm.parameters())]
            assert not given.grad[:, 1].any()
    for ours, theirs in zip(*results, strict=True):
        assert same_bits(ours, theirs)


def test_gradients_with_slots_are_those_of_the_live_rows_alone():
    lstm = filled(num_layers=2)
    h, c = lstm.state.read()
    oracle = plain(lstm)
    x, rows, live = noise(4, 4, 3), torch.tensor([5, -1, 1, 0]), [0, 2, 3]
    ours, theirs = x.clone().requires_grad_(), x[:, live].clone().requires_grad_()
    y, (h_n, c_n) = lstm(ours, state_indices=rows)
    loss = y.square().sum() + h_n[:, live].sum() + c_n[:, live].square().sum()
    loss.backward()
    y, (h_n, c_n) = oracle(theirs, (h[:, [5, 1, 0]], c[:, [5, 1, 0]]))
    (y.square().sum() + h_n.sum() + c_n.square().sum()).backward()
    close(ours.grad[:, live], theirs.grad)
    for a, b in zip(lstm.parameters(), oracle.parameters(), strict=True):
        close(a.grad, b.grad)


@every_mode
def test_hx_with_slots_wins_for_its_rows(steps, grad):
    lstm = filled()
    before = lstm.state.read()
    x, hx = noise(steps, 2, 3), (noise(1, 2, 5, seed=3), noise(1, 2, 5, seed=4))
    y, (h_n, c_n) = call(lstm, x, grad, hx=hx, state_indices=torch.tensor([3, 1]))
    close(y, plain(lstm)(x, hx)[0])
    assert same_bits(lstm.state.h[:, [3, 1]], h_n) and same_bits(lstm.state.c[:, [3, 1]], c_n)
    assert same_bits(lstm.state.h[:, [0, 2, 4, 5]], before[0][:, [0, 2, 4, 5]])


@every_mode
def test_slots_of_another_state_object(steps, grad):
    lstm = filled()
    own, other = snapshot(lstm.state), lstm.new_state(3)
    x = noise(2 * steps, 2, 3)
    for part in x.split(steps):
        y, _ = call(lstm, part, grad, state=other, state_indices=torch.tensor([2, 0]))
    expected, (h, _) = by_hand(lstm, x)
    close(y, expected[steps:])
    close(other.h[:, [2, 0]], h)
    assert not other.h[:, 1].any()
    assert_unmoved(own, lstm.state)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_two_directions_with_slots(steps, grad):
    lstm = filled(bidirectional=True)
    h, c = lstm.state.read()
    x, rows = noise(steps, 2, 3), [4, 1]
    hx = (h[:, rows].clone(), c[:, rows].clone())
    hx[0][1] = hx[1][1] = 0
    y, _ = call(lstm, x, grad, state_indices=torch.tensor([4, 1]))
    close(y, plain(lstm)(x, hx)[0])


def test_batch_first_with_slots():
    straight, turned = filled(), filled(batch_first=True)
    rows = torch.tensor([4, -1, 1])
    y = straight(noise(4, 3, 3), state_indices=rows)[0]
    close(turned(noise(4, 3, 3).transpose(0, 1), state_indices=rows)[0].transpose(0, 1), y)
    close(turned.state.h, straight.state.h)


def test_packed_rows_with_slots_are_in_the_users_order():
    lstm, padded_lstm = filled(), filled()
    x, lengths, rows = noise(4, 3, 3), torch.tensor([2, 4, 1]), torch.tensor([5, 0, 3])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, _ = lstm(packed, state_indices=rows)
    expected, _ = padded_lstm(x, lengths=lengths, state_indices=rows)
    close(pad_packed_sequence(y)[0], expected)
    close(lstm.state.h, padded_lstm.state.h)


@every_mode
def test_indices_masks_and_input_with_strides(steps, grad):
    strided, straight = filled(num_layers=2), filled(num_layers=2)
    rows = torch.tensor([5, 9, -1, 9, 0, 9])[::2]
    x = noise(3, steps, 6).transpose(0, 1)[..., ::2]
    mask = (torch.arange(6 * steps).reshape(3, 2 * steps) % 3 == 0).T[::2]
    y, _ = call(strided, x, grad, state_indices=rows, reset_mask=mask)
    expected, _ = call(
        straight, x.contiguous(), grad, state_indices=rows.clone(), reset_mask=mask.contiguous()
    )
    assert same_bits(y, expected) and same_bits(strided.state.h, straight.state.h)


@every_mode
def test_a_tick_without_streams_is_legal(steps, grad):
    lstm = filled()
    before = snapshot(lstm.state)
    nobody = torch.zeros(0, dtype=torch.int64)
    y, _ = call(lstm, noise(steps, 0, 3), grad, state_indices=nobody)
    assert y.shape == (steps, 0, 5)
    assert_unmoved(before, lstm.state)


@every_mode
@every_index_dtype
@pytest.mark.parametrize("rows", [[0, SLOTS], [-2, 1], [0, 2**31 - 1], [-(2**31), 0]], ids=str)
def test_an_index_outside_the_slots_is_refused(steps, grad, index_dtype, rows):
    lstm = filled()
    with refused(IndexError, "state_indices", str(SLOTS - 1), untouched=[lstm]):
        call(lstm, noise(steps, 2, 3), grad, state_indices=torch.tensor(rows, dtype=index_dtype))


@every_mode
def test_a_64_bit_index_is_not_cut_to_32(steps, grad):
    lstm = filled()
    with refused(IndexError, untouched=[lstm]):
        call(lstm, noise(steps, 2, 3), grad, state_indices=torch.tensor([2**32 + 1, 0]))


@every_mode
@every_index_dtype
def test_the_same_slot_twice_is_refused(steps, grad, index_dtype):
    lstm = filled()
    with refused(ValueError, "3", untouched=[lstm]):
        call(
            lstm,
            noise(steps, 4, 3),
            grad,
            state_indices=torch.tensor([3, -1, 3, -1], dtype=index_dtype),
        )
    call(lstm, noise(steps, 4, 3), grad, state_indices=torch.tensor([3, -1, 2, -1]))


@every_mode
def test_slots_need_an_allocated_state(steps, grad):
    lstm = make()
    with refused((ValueError, RuntimeError), "allocate_state", untouched=[lstm]):
        call(lstm, noise(steps, 2, 3), grad, state_indices=torch.tensor([1, 0]))
    assert lstm.state is None
