"""torchdata's StatefulDataLoader around ``ContinuousBatches``: its states resume exactly."""

import itertools

import pytest
import torch

from stateful_lstm.data import ContinuousBatches

stateful_dataloader = pytest.importorskip("torchdata.stateful_dataloader")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*set_vital"),  # torchdata's own
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

LENGTHS = (17, 3, 9, 1, 30, 2, 20)
HOW = [
    {},
    {"shuffle": True},
    {"shuffle": True, "batch_first": True, "batch_size": 1, "rank": 1, "world_size": 2},
]


def make(**changes):
    sequences = [1000 * (k + 1) + torch.arange(n) for k, n in enumerate(LENGTHS)]
    return ContinuousBatches(sequences, **{"batch_size": 2, "window": 4, **changes})


def numbers(windows):
    return [(w.position["epoch"], w.position["window"], w.input.tolist()) for w in windows]


def epochs(how):
    data = make(**how)
    return [numbers(data) for _ in range(3)]


def new(how, workers, persistent=False, **options):
    return stateful_dataloader.StatefulDataLoader(
        make(**how),
        batch_size=None,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        **options,
    )


def resumed(state, *how, **options):
    loader = new(*how, **options)
    loader.load_state_dict(state)
    return loader


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_it_goes_on_exactly_there(how, workers, persistent, every):
    options = {"snapshot_every_n_steps": every}
    whole = epochs(how)
    count = len(whole[1])
    for stops in ((1, 1, 2), (3, 0, 2), (count - 1, 1), (count,)):
        loader, got = new(how, workers, persistent, **options), []
        loader.dataset.set_epoch(1)
        for stop in stops:
            got += numbers(itertools.islice(iter(loader), stop))
            loader = resumed(loader.state_dict(), how, workers, persistent, **options)
        assert got + numbers(loader) == whole[1]
        loader.dataset.set_epoch(2)
        assert numbers(loader) == whole[2]  # from its beginning


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_between_epochs_and_in_the_second_one(workers, persistent):
    how = {"shuffle": True}
    whole = epochs(how)
    loader = new(how, workers, persistent)
    assert numbers(loader) == whole[0]
    over = resumed(loader.state_dict(), how, workers, persistent)
    over.dataset.set_epoch(1)
    assert numbers(over) == whole[1]
    loader.dataset.set_epoch(1)
    windows = iter(loader)
    begun = loader.state_dict()
    first = numbers(itertools.islice(windows, 3))
    inside = loader.state_dict()
    assert numbers(resumed(begun, how, workers, persistent)) == whole[1]
    assert first + numbers(resumed(inside, how, workers, persistent)) == whole[1]


def test_spawned_workers():
    how, whole = HOW[1], epochs(HOW[1])
    options = {"multiprocessing_context": "spawn"}
    loader = new(how, 2, **options)
    first = numbers(itertools.islice(iter(loader), 3))
    assert first + numbers(resumed(loader.state_dict(), how, 2, **options)) == whole[0]


def test_a_loaded_position_and_then_a_state():
    how, whole = HOW[1], epochs(HOW[1])
    loader = new(how, 2)
    loader.dataset.load_state_dict({**loader.dataset.state_dict(), "epoch": 1, "window": 3})
    first = numbers(itertools.islice(iter(loader), 2))
    assert first + numbers(resumed(loader.state_dict(), how, 2)) == whole[1][3:]


@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers_is_refused(workers):
    loader = new({}, 2)
    next(iter(loader))
    other = resumed(loader.state_dict(), {}, workers)
    with pytest.raises(ValueError, match=f"of worker . of 2, this is worker . of {workers}: go on"):
        iter(other)
