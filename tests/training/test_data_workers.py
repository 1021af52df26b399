"""``ContinuousBatches`` in workers of a ``DataLoader``: where each iteration begins and resumes."""

import itertools
import multiprocessing
import time
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stateful_lstm.data import ContinuousBatches

# More workers than cores, on a small machine.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

LENGTHS = (17, 3, 9, 1, 30, 2)


def make(**changes):
    sequences = [1000 * (k + 1) + torch.arange(n) for k, n in enumerate(LENGTHS)]
    return ContinuousBatches(sequences, **{"batch_size": 2, "window": 4, **changes})


def load(data, workers, **how):
    return DataLoader(data, batch_size=None, num_workers=workers, **how)


def numbers(windows):
    """What tells a window from all others, and where it says that it is."""
    return [
        (w.position["epoch"], w.position["window"], w.input.tolist(), w.reset_mask.tolist())
        for w in windows
    ]


def epochs(count=3, **changes):
    data = make(**changes)
    return [numbers(data) for _ in range(count)]


# ---- a position holds for one iteration ----------------------------------------------------------


@pytest.mark.sampled
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_loaded_position_holds_for_one_iteration(workers, persistent):
    whole = epochs(shuffle=True)
    data = make(shuffle=True)
    loader = load(data, workers, persistent_workers=persistent and workers > 0)
    for _ in range(2):
        data.load_state_dict({**data.state_dict(), "epoch": 1, "window": 3})
        assert numbers(loader) == whole[1][3:]
        data.set_epoch(1)  # where it is already, with workers
        assert numbers(loader) == whole[1]
    data.load_state_dict({**data.state_dict(), "epoch": 1, "window": 2})
    data.set_epoch(1)
    assert numbers(loader) == whole[1][2:]
    data.set_epoch(2)
    assert numbers(loader) == whole[2]


def test_an_iteration_that_is_broken_off_has_used_the_position():
    whole = epochs(1)[0]
    data = make()
    for workers in (0, 2):
        data.load_state_dict({**data.state_dict(), "epoch": 0, "window": 3})
        assert numbers([next(iter(load(data, workers)))]) == whole[3:4]
        data.set_epoch(0)
        assert numbers(load(data, 3)) == whole


def test_what_workers_have_used_is_used_in_the_main_process_too():
    whole = epochs(1)[0]
    data = make()
    data.load_state_dict({**data.state_dict(), "window": 3})
    assert numbers(load(data, 1)) == whole[3:]
    assert numbers(data) == whole


def test_all_workers_of_persistent_ones_agree_in_each_iteration():
    whole = epochs(1)[0]
    data = make()
    loader = load(data, 2, persistent_workers=True)
    assert numbers(loader) == whole
    data.load_state_dict({**data.state_dict(), "window": 5})
    assert numbers(loader) == whole[5:]
    assert numbers(loader) == numbers(loader) == whole


def late(worker):
    if worker > 0:
        time.sleep(0.5)


@pytest.mark.sampled(most=1)
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_start_late_begin_where_the_others_do(context):
    whole = epochs(shuffle=True)
    data = make(shuffle=True)
    loader = load(data, 2, worker_init_fn=late, multiprocessing_context=context)
    data.load_state_dict({**data.state_dict(), "epoch": 1, "window": 3})
    windows = iter(loader)
    first = next(windows)
    with data.from_the_beginning():  # what evaluate does in the middle of a fit
        pass
    data.set_epoch(2)
    assert numbers([first, *windows]) == whole[1][3:]
    assert numbers(loader) == whole[2]


def set_epoch(data, epoch):
    data.set_epoch(epoch)


def test_another_process_has_a_place_of_its_own():
    """Ranks that a launcher forks, each with persistent workers."""
    whole = epochs(shuffle=True)
    data = make(shuffle=True)
    loader = load(data, 1, persistent_workers=True)
    assert numbers(loader) == whole[0]
    other = multiprocessing.get_context("fork").Process(target=set_epoch, args=(data, 2))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert numbers(loader) == whole[0]


# ---- states of workers ---------------------------------------------------------------------------


class WithStates(IterableDataset):
    """Each window with the state of its worker behind it, as stateful loaders take them."""

    def __init__(self, data, states=None):
        self.data, self.states = data, states

    def __iter__(self):
        if self.states is not None:
            self.data.load_state_dict(self.states[get_worker_info().id])
        windows = iter(self.data)
        yield get_worker_info().id, self.data.state_dict(), None
        for window in windows:
            yield get_worker_info().id, self.data.state_dict(), window
        yield get_worker_info().id, self.data.state_dict(), None


def run(data, workers, states, stop=None):
    """The first windows of all workers, and the states to go on from."""
    loader = load(WithStates(data, states), workers, collate_fn=lambda item: item)
    windows, states = [], {}
    taken = itertools.islice(loader, workers + stop) if stop is not None else loader
    for worker, state, window in taken:
        states[worker] = state
        windows += [] if window is None else [window]
    return windows, states


@pytest.mark.sampled
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("changes", [{}, {"shuffle": True, "batch_first": True, "rank": 1}])
def test_each_worker_goes_on_from_its_own_state(workers, changes):
    if "rank" in changes:
        changes = {**changes, "batch_size": 1, "world_size": 2}
    whole = epochs(**changes)[1]
    began = 2
    data = make(**changes)
    data.load_state_dict({**data.state_dict(), "epoch": 1, "window": began})
    windows, states = run(data, workers, None, stop=0)
    assert windows == [] and len(states) == workers
    stop = 1
    for _ in range(3):  # again and again
        more, states = run(make(**changes), workers, states, stop)
        # A plain loader begins with worker 0; a worker's own windows come in their order.
        windows += more
        stop = workers
    rest, states = run(make(**changes), workers, states)
    windows += rest
    assert sorted(numbers(windows)) == sorted(whole[began:])
    assert run(make(**changes), workers, states)[0] == []  # at the epoch's end there is no more


def test_a_worker_goes_on_once():
    whole = epochs(1)[0]
    _, states = run(make(), 1, None, stop=3)

    def go_on(data, worker):
        data.load_state_dict(states[worker])

    data = make()
    loader = load(data, 1, worker_init_fn=partial(go_on, data), persistent_workers=True)
    assert numbers(loader) == whole[3:]
    assert numbers(loader) == whole  # in the same process


class Refusals(WithStates):
    """What each worker says of its state. An error itself would keep the workers alive a while."""

    def __iter__(self):
        try:
            self.data.load_state_dict(self.states[get_worker_info().id])
        except ValueError as error:
            yield str(error)
        assert self.data.state_dict()["window"] == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_the_state_of_another_worker_is_refused(workers):
    _, states = run(make(), 2, None, stop=2)
    states[2] = states[1]
    told = list(load(Refusals(make(), states), workers))
    assert len(told) == workers
    for worker, text in enumerate(told):
        whose = f"worker {min(worker, 1)} of 2, this is worker {worker} of {workers}"
        assert f"this position is of {whose}: continue with num_workers=2" in text
    swapped = {0: states[1], 1: states[0]}
    first, second = load(Refusals(make(), swapped), 2)
    assert "of worker 1 of 2, this is worker 0 of 2" in first
    assert "of worker 0 of 2, this is worker 1 of 2" in second
    data = make()
    with pytest.raises(ValueError, match="of worker 0 of 2, this is no worker"):
        data.load_state_dict(states[0])
    assert data.state_dict() == make().state_dict()


def test_a_plain_position_in_workers_is_where_they_take_turns_from():
    whole = epochs(1)[0]
    position = {**make().state_dict(), "window": 3}
    windows, _ = run(make(), 2, [position, position])
    assert numbers(windows) == whole[3:]
