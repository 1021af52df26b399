"""The resident state: who owns it, and when it changes."""

import threading

import pytest
import torch
from state_support import (
    addresses,
    assert_unmoved,
    by_hand,
    call,
    close,
    every_mode,
    make,
    noise,
    same_bits,
    snapshot,
)


def test_there_is_no_state_before_the_first_call():
    lstm = make()
    assert lstm.state is None
    lstm(noise(2, 4, 3))
    assert lstm.state.slots == 4


def test_a_stateless_layer_never_gets_a_state():
    lstm = make(stateful=False)
    x = noise(2, 4, 3)
    first, second = lstm(x)[0], lstm(x)[0]
    assert lstm.state is None
    assert same_bits(first, second)


def test_allocate_state_gives_zeros_of_the_documented_shapes():
    lstm = make(num_layers=2, bidirectional=True, proj_size=2)
    state = lstm.allocate_state(7)
    assert state is lstm.state
    assert state.slots == 7
    assert state.h.shape == (4, 7, 2) and state.c.shape == (4, 7, 5)
    assert not state.h.any() and not state.c.any()


def test_allocate_state_discards_what_was_there():
    lstm = make()
    lstm(noise(2, 4, 3))
    lstm.allocate_state(4)
    assert not lstm.state.h.any() and not lstm.state.c.any()


@every_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_call_starts_where_the_last_one_ended(steps, grad, dtype):
    lstm = make(num_layers=2, dtype=dtype)
    x = noise(3 * steps, 4, 3, dtype=dtype)
    expected, (h, c) = by_hand(lstm, x)
    parts = [call(lstm, part, grad)[0] for part in x.split(steps)]
    close(torch.cat(parts), expected)
    close(lstm.state.h, h)
    close(lstm.state.c, c)


@every_mode
def test_the_returned_tensors_are_not_windows_on_the_state(steps, grad):
    lstm = make()
    y, (h, c) = call(lstm, noise(steps, 4, 3), grad)
    kept = [t.detach().clone() for t in (y, h, c)]
    call(lstm, noise(steps, 4, 3, seed=2), grad)
    lstm.reset_state()
    for tensor, was in zip((y, h, c), kept, strict=True):
        assert same_bits(tensor, was)


@every_mode
def test_the_state_carries_no_graph(steps, grad):
    lstm = make()
    call(lstm, noise(steps, 4, 3).requires_grad_(), grad)
    for tensor in (lstm.state.h, lstm.state.c, *lstm.state.read()):
        assert not tensor.requires_grad and tensor.grad_fn is None


def test_addresses_stay_over_everything_a_run_does():
    lstm = make()
    lstm.allocate_state(4)
    home = addresses(lstm)
    mask = torch.zeros(4, dtype=torch.bool)
    for steps in (1, 4):
        for grad in (False, True):
            for mode in (lstm.train, lstm.eval):
                mode()
                call(lstm, noise(steps, 4, 3), grad)
                call(lstm, noise(steps, 4, 3), grad, reset_mask=mask.expand(steps, 4))
                call(lstm, noise(steps, 4, 3), grad, hx=(noise(1, 4, 5), noise(1, 4, 5)))
                call(lstm, noise(steps, 2, 3), grad, state_indices=torch.tensor([3, -1]))
                assert addresses(lstm) == home
    for which in (None, mask, torch.tensor([2])):
        lstm.reset_state(which)
        lstm.state.write(lstm.state.read(which), which)
    with lstm.preserve_state():
        call(lstm, noise(1, 4, 3))
    for steps in (1, 4):
        lstm.reset_state()
        call(lstm, noise(steps, 4, 3))
    assert addresses(lstm) == home


@pytest.mark.parametrize("name", ["reset_state", "reset_states"])
def test_reset_takes_nothing_a_mask_or_indices(name):
    for which, zeroed in [
        (None, [0, 1, 2, 3]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (torch.tensor([2, 0]), [0, 2]),
        (torch.tensor([], dtype=torch.int64), []),
    ]:
        lstm = make(num_layers=2)
        lstm(noise(2, 4, 3))
        before = lstm.state.read()
        getattr(lstm, name)(which)
        for now, was in zip((lstm.state.h, lstm.state.c), before, strict=True):
            for row in range(4):
                if row in zeroed:
                    assert not now[:, row].any()
                else:
                    assert same_bits(now[:, row], was[:, row])


def test_reset_before_the_first_call_is_harmless():
    lstm = make()
    lstm.reset_state()
    lstm.reset_states()
    assert lstm.state is None or not lstm.state.h.any()


def test_read_gives_copies_of_the_rows_asked_for():
    lstm = make(num_layers=2)
    lstm(noise(2, 4, 3))
    before = snapshot(lstm.state)
    for which, rows in [
        (None, [0, 1, 2, 3]),
        (torch.tensor([False, True, False, True]), [1, 3]),
        (torch.tensor([3, 0]), [3, 0]),
    ]:
        h, c = lstm.state.read(which)
        assert same_bits(h, lstm.state.h[:, rows]) and same_bits(c, lstm.state.c[:, rows])
        h.fill_(9)
        c.fill_(9)
        assert_unmoved(before, lstm.state)


def test_write_copies_into_the_rows_named():
    for which, rows in [
        (None, [0, 1, 2, 3]),
        (torch.tensor([False, True, False, True]), [1, 3]),
        (torch.tensor([3, 0]), [3, 0]),
    ]:
        lstm = make()
        lstm(noise(2, 4, 3))
        old_h, old_c = lstm.state.read()
        h, c = noise(1, len(rows), 5, seed=5), noise(1, len(rows), 5, seed=6)
        lstm.state.write((h, c), which)
        old_h[:, rows], old_c[:, rows] = h, c
        assert same_bits(lstm.state.h, old_h) and same_bits(lstm.state.c, old_c)
        h.fill_(9)
        assert same_bits(lstm.state.h, old_h)


def test_writing_a_tensor_with_a_graph_leaves_the_graph_behind():
    lstm = make()
    lstm.allocate_state(4)
    lstm.state.write((noise(1, 4, 5).requires_grad_(), noise(1, 4, 5).requires_grad_()))
    assert not lstm.state.h.requires_grad and not lstm.state.c.requires_grad


@every_mode
def test_another_state_object_is_used_in_place_of_the_layers_own(steps, grad):
    lstm = make()
    call(lstm, noise(steps, 4, 3), grad)
    own, other = snapshot(lstm.state), lstm.new_state(2)
    x = noise(2 * steps, 2, 3, seed=3)
    expected, (h, c) = by_hand(lstm, x)
    parts = [call(lstm, part, grad, state=other)[0] for part in x.split(steps)]
    close(torch.cat(parts), expected)
    close(other.h, h)
    close(other.c, c)
    assert_unmoved(own, lstm.state)


def test_new_state_does_not_make_a_resident_one():
    lstm = make()
    other = lstm.new_state(2)
    assert lstm.state is None
    lstm(noise(2, 2, 3), state=other)
    assert lstm.state is None and other.h.any()


@every_mode
def test_a_stateless_layer_carries_the_state_it_is_given(steps, grad):
    lstm = make(stateful=False)
    state, x = lstm.new_state(2), noise(2 * steps, 2, 3)
    parts = [call(lstm, part, grad, state=state)[0] for part in x.split(steps)]
    close(torch.cat(parts), by_hand(lstm, x)[0])
    assert lstm.state is None


def test_stateful_may_be_switched_off_and_on():
    lstm, x = make(), noise(2, 4, 3)
    lstm(x)
    before = snapshot(lstm.state)
    lstm.stateful = False
    close(lstm(x)[0], by_hand(lstm, x)[0])
    assert_unmoved(before, lstm.state)
    lstm.stateful = True
    close(lstm(x)[0], by_hand(lstm, torch.cat([x, x]))[0][2:])


@pytest.mark.parametrize("grad", [False, True])
def test_two_threads_with_two_states_do_not_meet(grad):
    lstm = make(hidden_size=16)
    streams = [noise(60, 2, 3, seed=seed) for seed in (10, 11)]
    results: dict[int, torch.Tensor] = {}
    gate = threading.Barrier(2)

    def feed(number):
        state = lstm.new_state(2)
        gate.wait()
        with torch.set_grad_enabled(grad):
            parts = [lstm(x, state=state)[0] for x in streams[number].split([1, 2] * 20)]
        results[number] = torch.cat(parts).detach()

    threads = [threading.Thread(target=feed, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        close(results[number], by_hand(lstm, streams[number])[0])
    assert lstm.state is None


@every_mode
def test_preserve_state_puts_everything_back(steps, grad):
    lstm = make()
    call(lstm, noise(4, 4, 3), grad)
    before = snapshot(lstm.state)
    with lstm.preserve_state():
        call(lstm, noise(steps, 4, 3), grad)
        assert not torch.equal(snapshot(lstm.state)[0], before[0])
    assert_unmoved(before, lstm.state)


def test_preserve_state_puts_everything_back_after_an_exception():
    lstm = make()
    lstm(noise(2, 4, 3))
    before = snapshot(lstm.state)
    with pytest.raises(KeyError), lstm.preserve_state():
        lstm(noise(2, 4, 3))
        raise KeyError
    assert_unmoved(before, lstm.state)


def test_preserve_state_starts_from_the_state_and_puts_back_none():
    lstm = make()
    with lstm.preserve_state():
        lstm(noise(2, 4, 3))
        assert lstm.state is not None
    assert lstm.state is None
    lstm(noise(2, 6, 3))
    assert lstm.state.slots == 6


@pytest.mark.parametrize(
    "disturb",
    [
        lambda lstm: lstm.allocate_state(9),
        lambda lstm: lstm.reset_state(),
        lambda lstm: lstm.reset_state(torch.tensor([0])),
        lambda lstm: lstm.state.write((noise(1, 4, 5), noise(1, 4, 5))),
        lambda lstm: (lstm.allocate_state(9), lstm(noise(2, 9, 3))),
        lambda lstm: (lstm.reset_state(), lstm(noise(2, 4, 3))),
    ],
    ids=["allocate", "reset", "reset_row", "write", "allocate_call", "reset_call"],
)
def test_preserve_state_undoes_more_than_calls(disturb):
    lstm = make()
    lstm(noise(2, 4, 3))
    before = snapshot(lstm.state)
    with lstm.preserve_state():
        disturb(lstm)
    assert_unmoved(before, lstm.state)


def test_preserve_state_keeps_that_a_batch_may_be_of_another_size():
    lstm = make()
    lstm(noise(2, 3, 3))
    lstm.reset_state()
    with lstm.preserve_state():
        lstm(noise(2, 3, 3))
    lstm(noise(2, 5, 3))
    assert lstm.state.slots == 5


def test_preserve_state_nests():
    lstm = make()
    lstm(noise(2, 4, 3))
    outer = snapshot(lstm.state)
    with lstm.preserve_state():
        lstm(noise(2, 4, 3))
        inner = snapshot(lstm.state)
        with lstm.preserve_state():
            lstm(noise(2, 4, 3))
        assert_unmoved(inner, lstm.state)
    assert_unmoved(outer, lstm.state)


def test_train_and_eval_share_the_state():
    lstm = make()
    x = noise(6, 4, 3)
    expected, _ = by_hand(lstm, x)
    lstm.train()
    first = lstm(x[:3])[0]
    lstm.eval()
    second = call(lstm, x[3:5])[0]
    lstm.train()
    third = lstm(x[5:])[0]
    close(torch.cat([first, second, third]), expected)


def test_a_reset_state_that_was_edited_since_is_not_discarded():
    lstm = make()
    lstm(noise(2, 4, 3))
    lstm.reset_state()
    lstm.state.h.add_(1)
    with pytest.raises(ValueError, match="6 rows"):
        lstm(noise(2, 6, 3))
    assert (lstm.state.h == 1).all()


def test_writing_a_slot_twice_is_refused():
    state = make().new_state(4)
    h, c = (torch.ones(1, 2, t.size(2), dtype=t.dtype) for t in (state.h, state.c))
    with pytest.raises(ValueError, match="once"):
        state.write((h, c), torch.tensor([2, 2]))
    assert not state.h.any() and not state.c.any()
