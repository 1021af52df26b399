"""Data that accelerate splits over processes, in the shape that accelerate gives it.

Tests with the package itself are in tests/ecosystem/test_accelerate.py.
"""

from types import ModuleType, SimpleNamespace

import pytest
import torch

from stateful_lstm.data import ContinuousBatches

LOADERS = """
class Loader:
    def __init__(self, dataset, **settings):
        self.dataset = dataset
        self.__dict__.update(settings)

    def __iter__(self):
        yield from self.dataset


class IterableDatasetShard(Loader):
    pass


class DataLoaderDispatcher(Loader):
    pass
"""


@pytest.fixture(scope="module")
def loaders():
    module = ModuleType("accelerate.data_loader")
    exec(LOADERS, module.__dict__)
    return module


def make(**changes):
    return ContinuousBatches([torch.arange(9)] * 4, **{"batch_size": 4, "window": 3, **changes})


def dispatcher(loaders, data, processes=2, split_batches=False, submesh_tp=None):
    state = SimpleNamespace(num_processes=processes)
    return loaders.DataLoaderDispatcher(
        data, state=state, split_batches=split_batches, submesh_tp=submesh_tp
    )


def test_windows_that_are_dealt_out_are_refused(loaders):
    shared = [
        loaders.IterableDatasetShard(make(), num_processes=2),
        dispatcher(loaders, make()),
        dispatcher(loaders, make(), split_batches=True),
        dispatcher(loaders, make(batch_first=True, batch_size=3), split_batches=True),
        dispatcher(loaders, make(batch_first=True, world_size=1, batch_size=4)),
    ]
    for loader in shared:
        with pytest.raises(RuntimeError, match="shares windows out to 2 processes"):
            list(loader)
        assert loader.dataset.epoch == 0 and loader.dataset.state_dict()["window"] == 0


def test_all_else_is_not(loaders):
    fine = [
        loaders.Loader(make(), num_processes=2),
        loaders.IterableDatasetShard(make(), num_processes=1),
        dispatcher(loaders, make(), processes=1),
        dispatcher(loaders, make(), submesh_tp=object()),  # all of them get the same windows
        dispatcher(loaders, make(batch_first=True), split_batches=True),  # each has rows
        loaders.IterableDatasetShard([list(make())], num_processes=2),
        loaders.IterableDatasetShard(map(list, [make()]), num_processes=2),  # data inside
    ]
    for loader in fine:
        assert len(list(loader)) in (1, 3)
