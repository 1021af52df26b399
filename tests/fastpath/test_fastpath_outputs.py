"""The fast path of inference: its outputs as tensors, and calls in several threads."""

import copy
import gc
import io
import itertools
import os
import pickle
import threading

import pytest
import torch
from fastpath_support import filled, flat, needs_fastpath
from state_support import (
    call,
    make,
    noise,
    same_bits,
)
from torch import nn

from stateful_lstm import StatefulLSTM

pytestmark = needs_fastpath

# ---- what comes out ------------------------------------------------------------------------------


def test_outputs_share_no_memory(spy):
    lstm, x = filled(num_layers=2), noise(2, 4, 3)
    outs = flat(call(lstm, x))
    assert spy.taken
    everything = [*outs.values(), lstm.state.h, lstm.state.c, x, *lstm.parameters()]
    kept = [t.detach().clone() for t in everything]
    for k, out in enumerate(outs.values()):
        out.fill_(9)
        for n, (t, was) in enumerate(zip(everything, kept, strict=True)):
            assert n <= k or same_bits(t, was)
    later, expected = call(lstm, x), filled(num_layers=2)
    call(expected, x)
    assert same_bits(later[0], call(expected, x)[0])
    assert all((out == 9).all() for out in outs.values())


def test_outputs_outlive_the_module_and_its_input(spy):
    lstm, x = filled(), noise(2, 4, 3)
    outs = list(flat(call(lstm, x)).values())
    kept = [out.clone() for out in outs]
    part = outs[0][1, 2:]
    del lstm, x
    gc.collect()
    litter = [torch.full((2, 4, 5), 9.0, dtype=torch.float64) for _ in range(50)]
    assert all(same_bits(*pair) for pair in zip(outs, kept, strict=True))
    del outs, litter
    gc.collect()
    assert same_bits(part, kept[0][1, 2:])


def test_the_memory_of_outputs_is_given_back():
    # What would leak is 6 MB a call. Many rows of few units: little to compute.
    lstm = filled(slots=32_000, hidden_size=8, dtype=torch.float32)
    x = noise(4, 32_000, 3, dtype=torch.float32)
    for _ in range(3):
        call(lstm, x)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    for _ in range(8):
        call(lstm, x)
    assert resident() - before < 30e6


def test_outputs_are_dense_tensors_like_any_other(spy):
    y, (h_n, c_n) = call(filled(batch_first=True), noise(4, 2, 3))
    assert spy.taken
    for out in (y, h_n, c_n):
        assert type(out) is torch.Tensor and out.is_contiguous() and out.storage_offset() == 0
        assert out.untyped_storage().nbytes() == out.numel() * 8
        assert out.data_ptr() % 64 == 0


def test_outputs_can_be_pickled_saved_shared_and_viewed(spy):
    y, (h_n, c_n) = call(filled(), noise(2, 4, 3))
    assert spy.taken
    assert same_bits(pickle.loads(pickle.dumps(y)), y)
    assert same_bits(copy.deepcopy(h_n), h_n)
    file = io.BytesIO()
    torch.save({"y": y, "c_n": c_n}, file)
    file.seek(0)
    assert same_bits(torch.load(file)["c_n"], c_n)
    kept = y.clone()
    assert y.share_memory_().is_shared() and same_bits(y, kept)
    assert same_bits(torch.from_dlpack(h_n), h_n)
    assert torch.from_numpy(c_n.numpy()).equal(c_n)


def test_outputs_take_part_in_graphs(spy):
    y, _ = call(filled(), noise(2, 4, 3))
    assert spy.taken and not y.requires_grad and y.grad_fn is None
    (y.requires_grad_() * 2).sum().backward()
    assert (y.grad == 2).all()


def test_outputs_belong_to_the_mode_of_the_call(spy):
    lstm, x = filled(), noise(2, 4, 3)
    for _ in range(2):
        with torch.inference_mode():
            inside = flat(lstm(x)).values()
        assert spy.taken and all(out.is_inference() for out in inside)
        outside = flat(call(lstm, x)).values()
        assert spy.taken and not any(out.is_inference() for out in outside)
    assert not lstm.state.h.is_inference()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_call_counts_as_a_change_of_the_state(spy, mode):
    lstm, x = filled(), noise(1, 4, 3)
    for _ in range(3):
        before = lstm.state.h._version, lstm.state.c._version
        with mode():
            lstm(x)
        assert spy.taken
        assert lstm.state.h._version > before[0] and lstm.state.c._version > before[1]


def test_a_graph_that_saved_the_state_knows_that_it_has_changed(spy):
    lstm = filled()
    weight = noise(1, 4, 5).requires_grad_()
    uses = [(lstm.state.h * weight).sum(), (lstm.state.c * weight).sum()]
    call(lstm, noise(1, 4, 3))
    assert spy.taken
    for use in uses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            use.backward()


# ---- threads -------------------------------------------------------------------------------------


def in_threads(*works):
    """Runs them at the same time; an exception in one is raised here."""
    errors, ready = [], threading.Barrier(len(works))

    def guarded(work):
        try:
            ready.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def walk(lstm, state, x, ys):
    with torch.no_grad():
        for each in x:
            ys.append(lstm(each, state=state)[0])


def test_two_threads_with_states_of_their_own_do_not_meet():
    # Large enough that the work is done without Python's lock.
    lstm = make(input_size=128, hidden_size=128, dtype=torch.float32)
    inputs = [noise(200, 1, 1, 128, seed=seed, dtype=torch.float32) for seed in (1, 2)]
    alone, together = [[], []], [[], []]
    states = [lstm.new_state(1) for _ in range(4)]
    for k in (0, 1):
        walk(lstm, states[k], inputs[k], alone[k])
    in_threads(*(lambda k=k: walk(lstm, states[2 + k], inputs[k], together[k]) for k in (0, 1)))
    for k in (0, 1):
        assert same_bits(torch.stack(together[k]), torch.stack(alone[k]))
        assert same_bits(states[2 + k].c, states[k].c)


def test_a_weight_replaced_by_another_thread_is_held_until_the_step_is_done():
    lstm = make(input_size=128, hidden_size=128, dtype=torch.float32)
    x = noise(200, 1, 1, 128, dtype=torch.float32)
    alone, together, done = [], [], threading.Event()
    walk(lstm, lstm.new_state(1), x, alone)

    def replace():
        for _ in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
            lstm.weight_hh_l0 = nn.Parameter(lstm.weight_hh_l0.detach().clone())
            # Memory that was freed is taken and written over at once.
            torch.full((512, 128), float("nan"))

    def step():
        try:
            walk(lstm, lstm.new_state(1), x, together)
        finally:
            done.set()

    in_threads(replace, step)
    assert same_bits(torch.stack(together), torch.stack(alone))


def test_the_module_itself_may_be_of_a_derived_class(spy):
    class Mine(StatefulLSTM):
        pass

    torch.manual_seed(0)
    lstm = Mine(3, 5, dtype=torch.float64)
    lstm.allocate_state(4)
    call(lstm, noise(1, 4, 3))
    assert spy.taken
