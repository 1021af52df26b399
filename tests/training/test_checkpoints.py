"""Saving and loading: the same bits from any moment on, or an error without effect."""

import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training_support import Net, everything, make_data, make_trainer, same

from stateful_lstm import StatefulLSTM
from stateful_lstm.training import CheckpointError, Trainer, checkpoint

HERE = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.pt"


def saved(path):
    """A trainer that has trained, and its checkpoint at `path`."""
    trainer = make_trainer()
    trainer.fit(make_data(), progress=False)
    trainer.save(path)
    return trainer


@pytest.mark.sampled
@pytest.mark.parametrize("after", [1, 6, 13, 20])
@pytest.mark.parametrize("kind", ["data", "workers", "list"])
def test_a_fit_goes_on_bit_for_bit(path, kind, after):
    def windows():
        if kind == "list":
            return list(make_data())
        return (
            DataLoader(make_data(), batch_size=None, num_workers=2)
            if kind == "workers"
            else make_data()
        )

    def save(trainer):
        if trainer.updates == after:
            trainer.save(path)

    whole = make_trainer()
    history = whole.fit(windows(), epochs=3, progress=False, callback=save)
    expected = everything(whole)
    resumed = make_trainer(seed=99)
    resumed.load(path)
    assert resumed.updates == after
    torch.manual_seed(1234)  # whatever happens between load and fit
    assert resumed.fit(windows(), epochs=3, progress=False) == history
    assert same(everything(resumed), expected)
    # Both go on alike: fit is over in either.
    torch.manual_seed(7)
    data = windows()
    one = whole.fit(data, epochs=1, progress=False)
    torch.manual_seed(7)
    assert resumed.fit(data if kind == "list" else windows(), epochs=1, progress=False) == one


def test_a_loop_over_update_goes_on_bit_for_bit(path):
    trainer = make_trainer()
    for k, window in enumerate(make_data()):
        trainer.update(window)
        if k == 4:
            trainer.save(path)
    resumed, data = make_trainer(seed=99), make_data()
    resumed.load(path)
    data.load_state_dict(resumed.position)
    for window in data:
        resumed.update(window)
    assert same(everything(resumed), everything(trainer))
    assert resumed.current_loss() == trainer.current_loss()


def test_all_random_generators_go_on(path):
    def draw():
        return [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002

    trainer = make_trainer()
    draw()
    trainer.save(path)
    expected = draw()
    draw()
    trainer.load(path)
    assert draw() == expected


def test_before_the_first_update_and_with_sgd(path):
    trainer = make_trainer()
    trainer.save(path)
    states = everything(trainer)
    trainer.fit(make_data(), progress=False)
    trainer.load(path)
    assert same(everything(trainer), states)
    assert trainer.model.lstm.state is None

    model = Net()
    plain = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss())
    plain.fit(make_data(), progress=False)
    plain.save(path)
    plain.load(path)


def test_the_state_keeps_its_address(path):
    trainer = saved(path)
    address = trainer.model.lstm.state.h.data_ptr()
    trainer.load(path)
    assert trainer.model.lstm.state.h.data_ptr() == address


# ---- files that are refused ----------------------------------------------------------------------


def refused(trainer, path, text, kind=CheckpointError):
    before = everything(trainer)
    with pytest.raises(kind, match=text):
        trainer.load(path)
    assert same(everything(trainer), before)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_foreign_files_are_refused(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer()
    trainer.fit(make_data(), progress=False)
    refused(trainer, path, "No such file", FileNotFoundError)
    for contents in (b"", b"no checkpoint", os.urandom(5000)):
        path.write_bytes(contents)
        refused(trainer, path, "no checkpoint, or damaged")
    torch.save(trainer.model.state_dict(), path)
    refused(trainer, path, "no checkpoint of a Trainer")
    torch.save([1, 2], path)
    refused(trainer, path, "got 'list'")
    torch.save({"format": checkpoint.FORMAT}, path)
    refused(trainer, path, "lacks")
    torch.save({"format": checkpoint.FORMAT, "model": Evil()}, path)
    refused(trainer, path, "no checkpoint, or damaged")
    path.write_bytes(pickle.dumps(Evil()))
    refused(trainer, path, "no checkpoint, or damaged")
    assert not Path("executed").exists()


def test_a_truncated_file_is_refused(path):
    trainer = saved(path)
    whole = path.read_bytes()
    for part in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        refused(trainer, path, "damaged")
    path.write_bytes(whole)
    trainer.load(path)


def test_a_file_with_a_wrong_part_changes_nothing(path):
    trainer = saved(path)
    whole = torch.load(path, weights_only=True)
    h, c = whole["states"]["lstm"]
    progress = whole["progress"]
    trainer.fit(make_data(), progress=False)  # or else it would become what it is
    for changes, text in (
        ({"states": {"lstm": (h[:, :, :3], c)}}, "does not fit: h must have shape"),
        ({"states": {"other": (h, c)}}, "no StatefulLSTM of the model is named"),
        ({"progress": 3}, "does not contain the progress"),
        ({"progress": {**progress, "scheduler": None}}, "this trainer has a scheduler"),
        ({"progress": {**progress, "loss": 3}}, "does not fit"),
        ({"rng": {**whole["rng"], "torch": torch.zeros(3)}}, "does not fit"),
        ({"model": {}}, "of another model: it lacks"),
        ({"optimizer": {"param_groups": []}}, "expected 1 groups"),
    ):
        torch.save({**whole, **changes}, path)
        refused(trainer, path, text)


def test_another_model_or_optimizer_is_refused(path):
    saved(path)
    refused(
        make_trainer(Net(hidden=9)),
        path,
        r"expected lstm.weight_ih_l0 of shape \(36, 3\), got \(32, 3\)",
    )
    with pytest.warns(UserWarning, match="no StatefulLSTM"):
        stateless = make_trainer(nn.Sequential(nn.Linear(3, 3)))
    refused(stateless, path, "of another model: it lacks")
    model = Net()
    sgd = Trainer(model, torch.optim.SGD(model.parameters()), nn.MSELoss())
    refused(sgd, path, "of another optimizer: its group 0 has")
    refused(make_trainer(scheduler=None), path, "has a scheduler, this trainer has none")
    two = [{"params": model.lstm.parameters()}, {"params": model.head.parameters()}]
    groups = Trainer(model, torch.optim.Adam(two), nn.MSELoss())
    refused(groups, path, "expected 2 groups")


def test_checkpoints_of_other_kinds_are_refused(path):
    def make(optimizer=torch.optim.Adam, scheduler="StepLR", order=1, **settings):
        torch.manual_seed(0)
        model = Net()
        chosen = optimizer(list(model.parameters())[::order], 1e-2)
        schedule = getattr(torch.optim.lr_scheduler, scheduler)(chosen, **settings)
        return Trainer(model, chosen, nn.MSELoss(), scheduler=schedule)

    trainer = make(step_size=3)
    trainer.fit(make_data(), progress=False)
    trainer.save(path)
    other = make(scheduler="ExponentialLR", gamma=0.5)
    refused(other, path, "of another scheduler: expected ExponentialLR, got StepLR")
    assert other.scheduler.gamma == 0.5
    refused(make(torch.optim.AdamW, step_size=3), path, "optimizer: expected AdamW, got Adam")
    refused(make(order=-1, step_size=3), path, "optimizer: expected the parameters .*, got")
    make(step_size=3).load(path)
    whole = torch.load(path, weights_only=True)
    for changes in ({"updates": None}, {"epoch": "x"}, {"position": 3}, {"history": None}):
        torch.save({**whole, "progress": {**whole["progress"], **changes}}, path)
        refused(trainer, path, "does not contain the progress of a training")
    torch.save({**whole, "optimizer": {"param_groups": [3]}}, path)
    refused(trainer, path, "of another optimizer: expected 1 groups")


def test_a_load_that_fails_leaves_the_state_at_its_address(path):
    trainer, wide = make_trainer(), make_trainer()
    trainer.fit(make_data(), progress=False)
    wide.fit(make_data(batch_size=3), progress=False)
    wide.save(path)
    whole = torch.load(path, weights_only=True)
    torch.save({**whole, "progress": {**whole["progress"], "loss": 3}}, path)
    state = trainer.model.lstm.state
    refused(trainer, path, "does not fit")
    assert trainer.model.lstm.state is state


def test_a_refusal_says_what_is_wrong_and_not_how_to_do_it_all_the_same(path):
    torch.save({"format": checkpoint.FORMAT, "model": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"neither a tensor nor a plain value$"):
        make_trainer().load(path)


def test_what_could_not_be_read_is_not_written(path):
    class Scheduler(torch.optim.lr_scheduler.ExponentialLR):
        def state_dict(self):
            return {"self": self}

    trainer = make_trainer()
    trainer.save(path)
    before = path.read_bytes()
    optimizer = trainer.optimizer
    odd = Trainer(trainer.model, optimizer, nn.MSELoss(), scheduler=Scheduler(optimizer, 0.9))
    with pytest.raises(TypeError, match=r"\['scheduler'\]\['self'\] is a Scheduler"):
        odd.save(path)
    assert path.read_bytes() == before


def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch):
    trainer = make_trainer()
    trainer.save(path)
    before = path.read_bytes()

    def half(contents, file):
        file.write(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="full"):
        trainer.save(path)
    assert path.read_bytes() == before


# ---- kill ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path):
    def run(name, kills):
        """Returns what it ends with, and at which update it was resumed each time."""
        file, result = tmp_path / f"{name}.pt", tmp_path / f"{name}.result"
        command = [sys.executable, str(HERE / "train_until_killed.py"), str(file), str(result)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        resumed = []
        for kill in [*range(kills), None]:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=environment
            ) as process:
                first = process.stdout.readline().split()
                resumed += [int(first[1])] if first[0] == "resumed" else []
                if kill is None:
                    process.stdout.read()
                    assert process.wait() == 0
                    break
                # Some saves later, and then at any point of what follows.
                for _ in range(moments.randrange(1, 6)):
                    process.stdout.readline()
                try:
                    process.wait(moments.uniform(0, 0.02))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL, "it was through before it was killed"
        return torch.load(result), resumed

    moments = random.Random()  # not the same ones in every run of the tests
    expected, _ = run("undisturbed", kills=0)
    found, resumed = run("killed", kills=3)
    assert len(resumed) == 3 and resumed[0] >= 3
    assert same(found, expected)


@pytest.mark.parametrize("kind", ["data", "list"])
def test_windows_that_are_refused_leave_a_loaded_trainer_as_it_was(path, kind):
    def windows(**changes):
        data = make_data(shuffle=False, **changes)
        return data if kind == "data" else list(data)

    def save(trainer):
        if trainer.updates == 20:
            trainer.save(path)

    trainer = make_trainer()
    history = trainer.fit(windows(), 2, progress=False, callback=save)
    resumed = make_trainer(seed=5)
    resumed.load(path)
    loaded, position = everything(resumed), dict(resumed.position)
    for _ in range(2):
        with pytest.raises((ValueError, RuntimeError)):
            resumed.fit(windows(window=7), 2, progress=False)
        with pytest.raises(TypeError, match="targets=y"):
            resumed.fit(torch.zeros(3, 2, 3), torch.zeros(3, 2, 3))
        assert same(everything(resumed), loaded)
        assert resumed.position == position
    assert resumed.fit(windows(), 2, progress=False) == history
    assert same(everything(resumed), everything(trainer))


def saved_in_the_second_epoch(path, data):
    """A checkpoint of a fit of two epochs, in its second; and what the whole fit gave."""
    trainer = make_trainer()
    first = len(data)
    history = trainer.fit(
        data, 2, progress=False, callback=lambda t: t.save(path) if t.updates == first + 2 else None
    )
    return trainer, history


def test_a_fit_with_no_epoch_left_says_so_and_keeps_the_place(path):
    trainer, history = saved_in_the_second_epoch(path, make_data())
    resumed = make_trainer(seed=5)
    resumed.load(path)
    with pytest.warns(UserWarning, match=r"has finished 1 epochs, and epochs=1") as seen:
        assert resumed.fit(make_data(), progress=False) == history[:1]
    assert seen[0].filename == __file__
    assert resumed.fit(make_data(), 2, progress=False) == history
    assert same(everything(resumed), everything(trainer))


def test_windows_without_a_position_cannot_follow_a_checkpoint_that_has_one(path):
    trainer, history = saved_in_the_second_epoch(path, make_data())
    resumed = make_trainer(seed=5)
    resumed.load(path)
    with pytest.raises(RuntimeError, match="these windows have none"):
        resumed.fit(list(make_data()), 2, progress=False)
    assert resumed.fit(make_data(), 2, progress=False) == history
    assert same(everything(resumed), everything(trainer))


def test_a_finished_fit_is_trained_further_on_other_data_as_without_saving(path):
    trainer = make_trainer()
    trainer.fit(make_data(), 2, progress=False)
    trainer.save(path)
    other = {"window": 9, "shuffle": False}
    history = trainer.fit(make_data(**other), progress=False)
    resumed = make_trainer(seed=5)
    resumed.load(path)
    assert resumed.fit(make_data(**other), progress=False) == history
    assert same(everything(resumed), everything(trainer))


def test_a_scheduler_that_is_missing_is_named(path):
    model = Net()
    make_trainer(model).save(path)
    without = Trainer(model, torch.optim.Adam(model.parameters()), nn.MSELoss())
    with pytest.raises(CheckpointError, match="has a scheduler, this trainer has none"):
        without.load(path)


def test_no_flipped_bit_is_loaded(path):
    trainer = make_trainer(StatefulLSTM(3, 3))
    trainer.fit(make_data(), progress=False)
    trainer.save(path)
    whole, expected = path.read_bytes(), everything(trainer)
    refused_ones = 0
    for place in range(0, len(whole), 61):
        flipped = bytearray(whole)
        flipped[place] ^= 0x40
        path.write_bytes(flipped)
        try:
            trainer.load(path)
        except CheckpointError:
            refused_ones += 1
        assert same(everything(trainer), expected), place
    assert refused_ones > len(whole) // 61 / 2
