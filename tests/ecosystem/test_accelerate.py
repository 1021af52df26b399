"""accelerate and Hugging Face's Trainer take windows in order, or refuse them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches

accelerate = pytest.importorskip("accelerate")

from accelerate.data_loader import prepare_data_loader  # noqa: E402

LENGTHS = (17, 3, 9, 10, 30, 12, 20, 11)
NAMES = ("input", "target", "reset_mask", "lengths", "target_mask")


def make(**changes):
    sequences = [
        1000 * (k + 1) + torch.arange(n).float().reshape(-1, 1) for k, n in enumerate(LENGTHS)
    ]
    return ContinuousBatches(
        sequences, **{"batch_size": 4, "window": 4, "shuffle": True, **changes}
    )


def as_dict(window):
    (window,) = window if isinstance(window, list) else (window,)
    return {name: getattr(window, name) for name in NAMES}


def load(data, batch_size=None, **options):
    return DataLoader(data, batch_size=batch_size, collate_fn=as_dict, **options)


def inputs(windows):
    return [w["input"].tolist() for w in windows]


def expected(count, **changes):
    data = make(**changes)
    return [w.input.tolist() for _ in range(count) for w in data]


@pytest.mark.parametrize("dispatch", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_one_process_gets_all_windows_in_their_order(dispatch, workers):
    loader = prepare_data_loader(
        load(make(), num_workers=workers),
        torch.device("cpu"),
        put_on_device=True,
        dispatch_batches=dispatch,
    )
    assert inputs(loader) + inputs(loader) == expected(2)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"batch_size": 2, "rank": 1, "world_size": 2}])
def test_windows_shared_out_one_by_one_are_refused(workers, changes):
    loader = prepare_data_loader(
        load(make(**changes), 1, num_workers=workers),
        num_processes=2,
        process_index=1,
        dispatch_batches=False,
    )
    assert type(loader.dataset).__name__ == "IterableDatasetShard"
    with pytest.raises(RuntimeError, match=r"shares windows out to 2 processes.*rank=accelerator"):
        next(iter(loader))


def dispatcher(data, split, processes=2):
    """That of the first of so many processes."""
    loader = prepare_data_loader(
        load(data, 1), put_on_device=True, dispatch_batches=True, split_batches=split
    )
    assert type(loader).__name__ == "DataLoaderDispatcher"
    loader.state = SimpleNamespace(num_processes=processes, process_index=0, device="cpu")
    return loader


@pytest.mark.parametrize(
    ("split", "changes"),
    [
        (False, {}),
        (False, {"batch_first": True}),
        (True, {}),  # along time
        (True, {"batch_first": True, "batch_size": 3}),
        (True, {"batch_first": True, "batch_size": 2, "world_size": 2}),
    ],
)
def test_windows_dispatched_to_processes_are_refused(split, changes):
    with pytest.raises(RuntimeError, match=r"shares windows out to 2 processes.*rank=accelerator"):
        next(iter(dispatcher(make(**changes), split)))


def test_rows_that_are_dispatched_are_not_refused(monkeypatch):
    for name in ("broadcast_object_list", "broadcast"):  # there is no other process here
        monkeypatch.setattr(accelerate.data_loader, name, lambda value, **_: value)
    loader = dispatcher(make(batch_first=True), split=True)
    assert inputs(loader) == expected(1, batch_first=True, batch_size=2, world_size=2)


def test_data_inside_of_other_data_is_not_refused():
    class Other(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from range(len(list(make())))

    loader = prepare_data_loader(
        DataLoader(Other(), 1), num_processes=2, process_index=1, dispatch_batches=False
    )
    assert next(int(item) for item in loader) == 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.seen = StatefulLSTM(1, 4, proj_size=1), []

    def forward(self, input, target, reset_mask, lengths, target_mask):
        self.seen.append(input.tolist())
        output, _ = self.lstm(input, reset_mask=reset_mask, lengths=lengths)
        return {"loss": (output - target)[target_mask].square().mean()}


@pytest.mark.parametrize("workers", [0, 2])
def test_hugging_faces_trainer_takes_windows_in_their_order(tmp_path, workers):
    transformers = pytest.importorskip("transformers")
    how = transformers.TrainingArguments(
        tmp_path,
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=1,
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    model = Net()
    transformers.Trainer(model, how, train_dataset=make(), data_collator=as_dict).train()
    assert model.seen == expected(2)
