"""Single steps: a row's bits are the same in every batch, cut, slot and number of threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from invariance_support import DTYPES, MARKS, SIZES, TILED, Steps, dtypes, sizes
from state_support import noise, same_bits

from stateful_lstm.backend import operators

pytestmark = MARKS
few = settings(max_examples=20, deadline=None, derandomize=True)


def through_the_dispatcher(monkeypatch):
    monkeypatch.setattr(operators, "fastpath_inference", None)


@dtypes
@sizes
def test_steps_of_a_row_are_the_same_in_every_batch(dtype, H):
    batches = [1, 2, 3, 4, 5, 11, 13, 24, 25]
    if H == 33:
        batches += [47, 48, 49, 96, 97, 130]
    last = batches[-1]
    steps = Steps(H, dtype, rows=last, num_layers=2)
    for B in batches:
        rows = list(range(last - B, last))
        state = steps.state(rows)
        steps.check(rows, steps.call(steps.x[:, rows], state), state)


@dtypes
@pytest.mark.parametrize("config", [{"proj_size": 5}, {"bias": False}, {"bidirectional": True}])
def test_steps_of_other_layers_are_the_same_in_every_batch(dtype, config):
    steps = Steps(9, dtype, rows=50, steps=1 if "bidirectional" in config else 4, **config)
    for B in (2, 3, 7, 47, 48, 49):
        rows = list(range(B))
        state = steps.state(rows)
        steps.check(rows, steps.call(steps.x[:, rows], state), state)


@dtypes
def test_steps_through_the_operator_are_those_of_the_fastpath(dtype, monkeypatch):
    steps = Steps(33, dtype, rows=50)
    through_the_dispatcher(monkeypatch)
    for B in (1, 4, 49):
        rows = list(range(B))
        state = steps.state(rows)
        steps.check(rows, steps.call(steps.x[:, rows], state), state)


@dtypes
@pytest.mark.parametrize("cut", [[4], [1, 3], [2, 2], [3, 1], [1, 2, 1], [1, 1, 1, 1]], ids=str)
def test_steps_are_the_same_in_one_call_and_in_several(dtype, cut):
    steps = Steps(33, dtype, rows=6, num_layers=2)
    rows = list(range(6))
    state = steps.state(rows)
    y = torch.cat([steps.call(part, state) for part in steps.x.split(cut)])
    steps.check(rows, y, state)


# So many inputs a row that a few rows' products with them are begun for all steps at once.
@dtypes
@pytest.mark.parametrize("config", [{"num_layers": 2}, {"proj_size": 5}, {"bias": False}], ids=str)
@pytest.mark.parametrize("cut", [[4], [1, 3], [2, 2]], ids=str)
def test_steps_of_many_inputs_are_the_same_in_every_batch_and_cut(dtype, config, cut):
    steps = Steps(19, dtype, rows=9, inputs=1100, **config)
    for B in (1, 2, 3, 4, 5, 8, 9):
        rows = list(range(9 - B, 9))
        state = steps.state(rows)
        y = torch.cat([steps.call(part, state) for part in steps.x[:, rows].split(cut)])
        steps.check(rows, y, state)


@dtypes
def test_steps_of_many_inputs_with_resets_lengths_and_padding(dtype):
    steps = Steps(19, dtype, rows=3, inputs=1100, num_layers=2)
    state = steps.state([0, 1, 2])
    state.h[:, 1], state.c[:, 1] = float("nan"), float("inf")
    x = steps.x.clone()
    x[2:, 1], x[:, 2] = float("nan"), float("nan")  # past its end; padding
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[0, 1] = mask[1, 1] = True
    y = steps.call(
        x,
        state,
        reset_mask=mask,
        lengths=torch.tensor([4, 2, 4]),
        state_indices=torch.tensor([0, 1, -1]),
    )
    steps.check([0], y[:, :1], state, [0])
    alone = steps.lstm.new_state(1)
    steps.call(x[:1, 1:2], alone, reset_mask=mask[:1, 1:2])
    last = steps.call(x[1:2, 1:2], alone, reset_mask=mask[1:2, 1:2])
    assert same_bits(y[1, 1], last[0, 0])
    assert same_bits(state.h[:, 1], alone.h[:, 0]) and same_bits(state.c[:, 1], alone.c[:, 0])
    assert (y[2:, 1] == 0).all() and (y[:, 2] == 0).all()
    assert same_bits(state.h[:, 2], steps.h0[:, 2])


@pytest.mark.skipif(not TILED, reason="needs AMX's tiles, or those written out")
@sizes
@pytest.mark.parametrize("B", [1, 2, 16, 17, 50])
def test_tiles_give_steps_and_sequences_of_bfloat16_the_same_bits(H, B):
    steps = Steps(H, torch.bfloat16, rows=B)
    start = steps.h0, steps.c0
    y, (h, _) = steps.lstm(steps.x, start)  # training: packed
    assert same_bits(y.detach(), steps.y) and same_bits(h.detach(), steps.h)
    first, state = steps.lstm(steps.x[:1], start)  # packed on the fly
    assert same_bits(first[0].detach(), steps.y[0]) and same_bits(state[0][0].detach(), first[0])


@few
@given(st.data())
def test_steps_in_any_slot_beside_any_neighbours(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    H = data.draw(st.sampled_from(SIZES))
    steps = Steps(H, dtype, rows=3)
    slots = data.draw(st.integers(3, 60))
    places = data.draw(st.permutations(range(slots)))
    B = data.draw(st.integers(3, slots))
    # Rows 0, 1, 2 of the truth stand somewhere among rows of NaN and padding.
    where = data.draw(st.permutations(range(B)))[:3]
    index = torch.tensor(places[:B])
    padding = [b for b in range(B) if b not in where and data.draw(st.booleans())]
    mine = index[where]
    index[padding] = -1
    x = torch.full((4, B, H + 2), float("nan"), dtype=dtype)
    x[:, where] = steps.x
    state = steps.lstm.new_state(slots)
    state.h.fill_(float("nan"))
    state.c.fill_(float("inf"))
    state.h[:, mine], state.c[:, mine] = steps.h0, steps.c0
    y = steps.call(x, state, state_indices=index)
    steps.check([0, 1, 2], y[:, where], state, mine)


@dtypes
def test_steps_with_resets_in_other_rows(dtype):
    steps = Steps(33, dtype, rows=6)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, [1, 4]] = noise(4, 2, seed=5) > 0
    state = steps.state(list(range(6)))
    y = steps.call(steps.x, state, reset_mask=mask)
    rows = [0, 2, 3, 5]
    steps.check(rows, y[:, rows], state, rows)
    assert not same_bits(y, steps.y)


@dtypes
@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"proj_size": 130, "num_layers": 2}])
def test_steps_by_any_number_of_threads(dtype, config, threads):
    threads(1)
    steps = Steps(260, dtype, rows=9, steps=2, **config)
    for count in (1, 2, 3, 7) + 4 * (2,):
        threads(count)
        for B in (1, 9):
            rows = list(range(B))
            state = steps.state(rows)
            steps.check(rows, steps.call(steps.x[:, rows], state), state)
