"""Sources of ``Trainer``'s windows: evaluate leaves them alone, and fit resumes them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training_support import Net, everything, make_data, make_trainer, same

from stateful_lstm.data import ContinuousBatches, Window
from stateful_lstm.training import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(windows):
    return [window.input for window in windows]


# ---- evaluate ----------------------------------------------------------------------------------


def started(data):
    next(iter(data))
    return data


def positioned(data):
    data.load_state_dict({**data.state_dict(), "window": 3})
    return data


@pytest.mark.parametrize("before", [started, positioned, lambda data: data])
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_evaluate_takes_all_of_the_data_and_leaves_it_where_it_was(before, workers):
    trainer, whole = make_trainer(Net(dropout=0.0)), make_data()
    expected = trainer.evaluate(list(whole))
    data, twin = before(make_data()), before(make_data())
    windows = data
    if workers is not None:
        windows = DataLoader(data, batch_size=None, num_workers=workers)
    assert [trainer.evaluate(windows) for _ in range(2)] == [expected, expected]
    assert data.state_dict() == twin.state_dict() and data.epoch == twin.epoch
    assert same(inputs(data), inputs(twin))


def test_evaluate_on_the_data_of_a_fit_that_goes_on():
    plain, looking = make_trainer(), make_trainer()
    found = []
    torch.manual_seed(1)
    plain.fit(make_data(), 3, progress=False)
    torch.manual_seed(1)
    data = make_data()
    looking.fit(data, 3, progress=False, callback=lambda t: found.append(t.evaluate(data)))
    assert same(everything(plain), everything(looking))
    assert len(found) == looking.updates
    assert found[-1] == pytest.approx(looking.evaluate(make_data()))


def test_evaluate_leaves_the_generator_of_a_loader_alone():
    waves = [torch.randn(n, 3) for n in (5, 9, 7, 3, 8, 6)]
    draws = torch.Generator().manual_seed(4)
    loader = DataLoader(waves, batch_size=2, shuffle=True, collate_fn=Window.pad, generator=draws)
    trainer = make_trainer()
    before = draws.get_state()
    trainer.evaluate(loader)
    assert torch.equal(draws.get_state(), before)


def test_evaluate_inside_a_fit_asks_no_busy_workers():
    loader = DataLoader(make_data(), batch_size=None, num_workers=1, persistent_workers=True)
    trainer = make_trainer()
    with pytest.raises(RuntimeError, match="persistent workers, which are busy"):
        trainer.fit(loader, progress=False, callback=lambda t: t.evaluate(loader))
    assert trainer.evaluate(loader) > 0  # they are free now


# ---- going on ----------------------------------------------------------------------------------


def numbered(count=20, steps=8):
    return [torch.full((steps, 3), float(k)) for k in range(count)]


def shuffled(generator=None):
    return DataLoader(
        numbered(), batch_size=2, shuffle=True, collate_fn=Window.pad, generator=generator
    )


class Wrapped:
    """An order of its own in each epoch, of which it tells nobody."""

    def __init__(self):
        self.data = make_data()

    def __iter__(self):
        yield from self.data


class WithoutPositions:
    """Its windows have no position, but it has one."""

    def __init__(self):
        self.windows, self.done = list(make_data()), 0

    def __iter__(self):
        while self.done < len(self.windows):
            window = self.windows[self.done]
            self.done += 1
            yield Window(**{**vars(window), "position": {}})
        self.done = 0

    def state_dict(self):
        return {"window": self.done}

    def load_state_dict(self, state):
        self.done = state["window"]


def save_after(updates, path):
    """A callback."""

    def save(trainer):
        if trainer.updates == updates:
            trainer.save(path)

    return save


def go_on(path, make, after, epochs=2):
    """An undisturbed fit, and one that goes on from its checkpoint in another process's place."""
    torch.manual_seed(11)
    whole = make_trainer()
    history = whole.fit(make(), epochs, progress=False, callback=save_after(after, path))
    resumed = make_trainer(seed=5)
    resumed.load(path)
    torch.manual_seed(77)
    assert resumed.fit(make(), epochs, progress=False) == history
    assert resumed.updates == whole.updates
    assert same(everything(resumed), everything(whole))


@pytest.mark.parametrize("after", [1, 4, 10, 13])
def test_a_loader_that_shuffles_goes_on_bit_for_bit(tmp_path, after):
    go_on(tmp_path / "a", shuffled, after)
    go_on(tmp_path / "b", lambda: shuffled(torch.Generator().manual_seed(3)), after)


@pytest.mark.parametrize("after", [3, 13, 16])
def test_data_with_a_state_goes_on_though_its_windows_have_no_position(tmp_path, after):
    assert len(list(make_data())) == 13
    go_on(tmp_path / "c", WithoutPositions, after)


def test_where_it_cannot_go_on_it_says_so(tmp_path):
    go_on(tmp_path / "a", Wrapped, 4)
    with pytest.raises(
        RuntimeError, match="cannot continue in the middle of this epoch: its window"
    ):
        go_on(tmp_path / "a", Wrapped, 16)  # in the second epoch
    trainer = make_trainer()
    trainer.fit(shuffled(), progress=False, callback=lambda t: t.save(tmp_path / "b"))
    other = make_trainer()
    other.load(tmp_path / "b")
    before = other.updates
    with pytest.raises(RuntimeError, match="its window 10 is not the same as before"):
        other.fit(list(shuffled())[:3], progress=False)
    assert other.updates == before


def test_an_error_is_its_own_after_other_data():
    trainer = make_trainer(Net(dropout=0.0))
    trainer.fit(make_data(), progress=False)
    windows = ContinuousBatches([torch.full((9, 3), float("nan"))] * 2, 2, 5)
    with pytest.raises(FloatingPointError, match=f"update {trainer.updates + 1} is nan"):
        trainer.fit(windows, progress=False)


def test_numpy_numbers_are_saved_as_numbers(tmp_path):
    rates = np.logspace(-3, -1, 3)

    def make():
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=rates[1])
        steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, np.array([3, 9]), np.float64(0.5))
        return Trainer(model, optimizer, nn.MSELoss(), scheduler=steps)

    def data():
        return make_data(seed=np.int64(3), batch_size=np.int32(2), window=np.int64(5))

    trainer, resumed = make(), make()
    torch.manual_seed(0)
    trainer.fit(data(), 2, progress=False, callback=save_after(7, tmp_path / "a"))
    resumed.load(tmp_path / "a")
    resumed.fit(data(), 2, progress=False)
    # but for the rates as tensors, of which NumPy's are float64
    one, other = ([*everything(t)[:-2], torch.tensor(t.updates)] for t in (resumed, trainer))
    assert same(one, other)
    assert resumed.scheduler.state_dict() == trainer.scheduler.state_dict()


def test_the_scheduler_goes_on_too(tmp_path):
    def make():
        return make_trainer(scheduler=None)

    one, other = make(), make()
    for trainer in (one, other):
        optimizer = trainer.optimizer
        trainer.scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-1, 5)
    torch.manual_seed(0)
    one.fit(make_data(), 2, progress=False, callback=save_after(7, tmp_path / "a"))
    other.load(tmp_path / "a")
    other.fit(make_data(), 2, progress=False)
    assert same(everything(one), everything(other))


def test_epochs_without_windows_or_targets_are_refused():
    with pytest.raises(ValueError, match="no windows: there is nothing to train on"):
        make_trainer().fit([], progress=False)
    single = ContinuousBatches([torch.randn(1, 3)] * 4, 2, 2)
    with pytest.raises(ValueError, match="the epoch has no targets"):
        make_trainer().fit(single, progress=False)


def test_copies_of_data_have_workers_of_their_own():
    data = copy.deepcopy(make_data())
    loader = DataLoader(data, batch_size=None, num_workers=1, persistent_workers=True)
    epochs = []
    make_trainer().fit(
        loader, 3, progress=False, callback=lambda t: epochs.append(t.position["epoch"])
    )
    assert sorted(set(epochs)) == [0, 1, 2]


def test_a_compiled_model_is_asked_for_what_it_takes():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return self.head(x)

    with pytest.warns(UserWarning, match="the Plain has no StatefulLSTM"):
        trainer = make_trainer(torch.compile(Plain(), backend="eager"))
    trainer.fit([Window.pad([torch.randn(4, 3)])], progress=False)
    assert trainer.updates == 1
