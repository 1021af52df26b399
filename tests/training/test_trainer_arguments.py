"""``Trainer`` refuses arguments of the wrong kind by name, before any effect."""

import copy
import dataclasses
import subprocess
import sys
import textwrap
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from other_defaults import OTHER_DEFAULTS
from torch import nn
from torch.utils.data import DataLoader
from training_support import Net, everything, make_data, make_trainer, same

from stateful_lstm import StatefulLSTM, convert
from stateful_lstm.data import ContinuousBatches, Window
from stateful_lstm.training import CheckpointError, Trainer

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")


def refused(trainer, error, text, call):
    before, modes = everything(trainer), [m.training for m in trainer.model.modules()]
    with pytest.raises(error, match=text):
        call()
    assert same(everything(trainer), before) and trainer.epoch == 0
    assert [m.training for m in trainer.model.modules()] == modes


# ---- the constructor ---------------------------------------------------------------------------


def test_parts_of_another_kind():
    model, loss = Net(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters())
    for arguments, text in (
        ((Net, optimizer, loss), "model must be a torch.nn.Module, got the class Net"),
        ((model, model.parameters(), loss), "optimizer must be a torch.optim.Optimizer, got a gen"),
        (
            (model, torch.optim.SGD, loss),
            "optimizer must be a torch.optim.Optimizer, got the class SGD",
        ),
        ((model, optimizer, "mse"), "loss_fn must be a function .* got 'mse'"),
        ((model, optimizer, nn.MSELoss), "loss_fn must be a function, got the class MSELoss"),
    ):
        with pytest.raises(TypeError, match=text):
            Trainer(*arguments)
    for options, text in (
        ({"scheduler": 0.1}, "scheduler must be one of torch.optim.lr_scheduler, got 0.1"),
        ({"forward": "forward"}, "forward must be a function of .model, window., got 'forward'"),
    ):
        with pytest.raises(TypeError, match=text):
            Trainer(model, optimizer, loss, **options)


def test_an_optimizer_of_another_model_and_a_scheduler_of_another_optimizer():
    model, other = Net(), Net()
    optimizer, foreign = (torch.optim.SGD(m.parameters()) for m in (model, copy.deepcopy(other)))
    with pytest.raises(ValueError, match="the SGD has no parameter of the Net"):
        Trainer(model, foreign, nn.MSELoss())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(foreign, 0.9)
    with pytest.raises(ValueError, match="the ExponentialLR is the scheduler of another optimizer"):
        Trainer(model, optimizer, nn.MSELoss(), scheduler=scheduler)
    some = torch.optim.SGD([*model.head.parameters(), *other.parameters()])
    Trainer(model, some, nn.MSELoss())


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"lstm": nn.LSTM(3, 3)})

    def forward(self, x):
        return self.encoder["lstm"](x)[0]


def test_a_model_without_states_is_warned_of_once(tmp_path):
    model = Plain()
    windows = ContinuousBatches(torch.randn(2, 10, 3), 2, 10)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer = make_trainer(model)
        trainer.fit(windows, epochs=2, progress=False)
        trainer.evaluate(windows)
        trainer.save(tmp_path / "plain")
        trainer.load(tmp_path / "plain")
    (only,) = seen
    assert only.filename == make_trainer.__code__.co_filename
    text = str(only.message)
    assert "the Plain has no StatefulLSTM: no state is carried" in text
    assert "stateful_lstm.convert(model)" in text and text.endswith(": encoder.lstm")
    make_trainer(convert(model))


# ---- windows and epochs --------------------------------------------------------------------------


class Frame:
    """What a DataFrame has of an array and of an iterable."""

    shape = (9, 2)

    def __iter__(self):
        return iter(["columns"])

    def __array__(self):
        return np.zeros(self.shape)


@pytest.mark.parametrize(
    ("windows", "text"),
    [
        (
            torch.randn(5, 2, 3),
            r"a tensor of torch.float32 and shape \(5, 2, 3\)\. ContinuousB.*=y",
        ),
        (
            np.zeros((5, 2)),
            r"a numpy array of float64 and shape \(5, 2\)\. ContinuousB.*targets=y",
        ),
        (Frame(), r"got a Frame of shape \(9, 2\)"),
        (Window.pad([torch.randn(4, 3)]), "got a single Window: put it in a list"),
        ("windows", "got 'windows'"),
        ({"train": []}, "got a dict"),
        (None, "got None"),
        (make_data, "got a function"),
        ([torch.randn(5, 3)], r"windows\[0\]: expected a stateful_lstm.data.Window, got a tensor"),
        ((Window.pad([torch.randn(4, 3)]), 5), r"windows\[1\]: expected a .*Window, got 5"),
        (iter([]), "more than once"),
        (DataLoader(make_data()), r"use DataLoader\(windows, batch_size=None\)"),
    ],
)
def test_what_is_no_windows(windows, text):
    trainer = make_trainer()
    refused(trainer, TypeError, text, lambda: trainer.fit(windows))
    refused(trainer, TypeError, text, lambda: trainer.evaluate(windows))


def test_inputs_and_targets_in_the_way_of_other_libraries():
    trainer, x, y = make_trainer(), torch.randn(2, 9, 3), torch.randn(2, 9, 3)
    text = r"got a tensor of torch.float32 and shape .*targets=y"
    refused(trainer, TypeError, text, lambda: trainer.fit(x, y))
    text = r"epochs must be a whole number, got a numpy array of float32 and shape .*targets=y"
    refused(trainer, TypeError, text, lambda: trainer.fit(make_data(), y.numpy()))
    trainer.fit(ContinuousBatches(x, 2, 5, targets=y), progress=False)


@pytest.mark.parametrize(
    ("epochs", "error"),
    [(2.0, TypeError), ("2", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError)],
)
def test_epochs_that_are_no_count(epochs, error):
    trainer = make_trainer()
    text = f"epochs must be .*, got {epochs!r}"
    refused(trainer, error, text, lambda: trainer.fit(make_data(), epochs))


def test_counts_of_any_kind():
    trainer = make_trainer()
    for epochs in (0, np.int64(2), np.uint8(1)):
        assert len(trainer.fit(make_data(), epochs, progress=np.bool_(False))) == epochs
        assert trainer.epoch == epochs


def test_a_callback_in_the_wrong_place_or_of_another_kind():
    trainer = make_trainer()
    text = "progress must be True or False, got a function"
    refused(trainer, TypeError, text, lambda: trainer.fit(make_data(), 1, lambda t: "stop"))
    for callback, got in (("stop", "'stop'"), ([print], "a list")):
        text = f"callback must be a function of the trainer, got {got}"
        fit = lambda callback=callback: trainer.fit(make_data(), callback=callback)  # noqa: E731
        refused(trainer, TypeError, text, fit)


@pytest.mark.parametrize(
    ("answer", "error"),
    [("Stop", ValueError), (True, TypeError), (False, TypeError), (0.5, TypeError)],
)
def test_answers_of_a_callback_that_mean_nothing(answer, error):
    trainer, data = make_trainer(), make_data()
    with pytest.raises(error, match=f"the callback returned {answer!r}: expected None"):
        trainer.fit(data, progress=False, callback=lambda t: answer)
    assert trainer.updates == 1
    trainer.fit(data, progress=False)  # from the beginning
    assert trainer.updates == 1 + len(make_data())


def test_windows_made_by_hand_are_refused_before_anything_happens():
    trainer = make_trainer()
    good = next(iter(make_data()))
    for changes, error, text in (
        ({"reset_mask": good.reset_mask.long()}, TypeError, "reset_mask must be a tensor of bool"),
        ({"target_mask": good.target_mask.int()}, TypeError, "target_mask must be .* of bool"),
        ({"lengths": good.lengths.float()}, TypeError, "lengths must be a tensor of int64 or"),
        ({"reset_mask": good.reset_mask[:1]}, ValueError, r"reset_mask must be \(5, 2\), got"),
    ):
        bad = dataclasses.replace(good, **changes)
        refused(trainer, error, text, lambda bad=bad: trainer.update(bad))
        refused(trainer, error, text, lambda bad=bad: trainer.evaluate([bad]))


# ---- what is told --------------------------------------------------------------------------------


def test_epoch_is_how_many_the_last_fit_finished(tmp_path):
    trainer, seen = make_trainer(), []
    trainer.fit(
        make_data(shuffle=False), 2, progress=False, callback=lambda t: seen.append(t.epoch)
    )
    assert trainer.epoch == 2 and set(seen) == {0, 1}
    each = len(seen) // 2

    def stop(t):
        return "stop" if t.epoch == 1 else None

    trainer.fit(make_data(shuffle=False), 5, progress=False, callback=stop)
    assert trainer.epoch == 1

    def fail(t):
        if t.epoch == 3:
            t.save(tmp_path / "inside")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_data(shuffle=False), 5, progress=False, callback=fail)
    assert trainer.epoch == 3
    with pytest.raises(CheckpointError):
        (tmp_path / "none").write_text("no checkpoint")
        trainer.load(tmp_path / "none")
    other = make_trainer(Net(hidden=9))
    other.fit(make_data(shuffle=False), progress=False)
    with pytest.raises(CheckpointError):
        other.load(tmp_path / "inside")
    assert trainer.epoch == 3 and other.epoch == 1

    done, resumed = trainer.updates, make_trainer()
    resumed.load(tmp_path / "inside")
    assert resumed.epoch == 3
    resumed.fit(make_data(shuffle=False), 5, progress=False)
    assert resumed.epoch == 5 and resumed.updates == done + 2 * each - 1
    resumed.save(tmp_path / "after")
    resumed.load(tmp_path / "after")  # of a fit that is over: the next one begins
    before = resumed.updates
    resumed.fit(make_data(shuffle=False), progress=False)
    assert resumed.updates == before + each and resumed.epoch == 1


def test_a_load_that_fails_on_the_way_leaves_the_epoch(tmp_path, monkeypatch):
    trainer = make_trainer()
    trainer.fit(make_data(), 2, progress=False)
    trainer.save(tmp_path / "a")
    calls = []

    def fail_once(states):
        calls.append(states)
        if len(calls) == 1:
            raise ValueError("no")

    monkeypatch.setattr(trainer.scheduler, "load_state_dict", fail_once)
    with pytest.raises(CheckpointError, match="does not fit: no"):
        trainer.load(tmp_path / "a")
    assert trainer.epoch == 2


def test_the_repr_names_model_optimizer_and_progress():
    trainer = make_trainer()
    trainer.fit(make_data(), 2, progress=False)
    expected = f"Trainer(model=Net, optimizer=Adam, updates={trainer.updates}, epoch=2)"
    assert repr(trainer) == expected
    compiled = torch.compile(StatefulLSTM(3, 3), backend="eager")
    assert repr(make_trainer(compiled)).startswith("Trainer(model=StatefulLSTM, ")


# ---- the bar -------------------------------------------------------------------------------------


def test_without_tqdm_there_is_no_bar(monkeypatch, capsys):
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(make_trainer().fit(make_data(), epochs=2)) == 2
    assert not capsys.readouterr().err


def test_in_a_notebook_without_widgets_there_is_a_bar_of_text_and_no_warning():
    pytest.importorskip("tqdm")
    code = """
        import sys, types
        from stateful_lstm.training import progress

        for name in [name for name in sys.modules if name.startswith("tqdm")]:
            del sys.modules[name]
        notebook = types.SimpleNamespace(config={"IPKernelApp": {}})
        sys.modules["IPython"] = types.ModuleType("IPython")
        sys.modules["IPython"].get_ipython = lambda: notebook
        sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
        sys.modules["ipywidgets"] = None
        assert progress._tqdm() is sys.modules["tqdm.auto"].tqdm
        with progress.progress_bar(True, "epoch 1/1", lambda: 3) as show:
            for seen in range(1, 4):
                show(seen, 10, 0.5)
    """
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "30.0/30.0" in done.stderr and "Warning" not in done.stderr


# ---- defaults of the process ---------------------------------------------------------------------


def train(model, optimizer, windows, folder):
    """A fit, and checkpoints of both kinds."""
    torch.manual_seed(5)
    trainer = Trainer(model, optimizer, nn.MSELoss(), clip_grad_norm=1.0)
    trainer.fit(windows, 2, progress=False)
    (folder / "folder").mkdir(parents=True)
    for name in ("file", "folder"):
        trainer.save(folder / name)
        trainer.load(folder / name)
    return trainer, [trainer.evaluate(windows), trainer.current_loss()]


@pytest.mark.parametrize("default", OTHER_DEFAULTS)
def test_another_default_device_or_dtype_changes_nothing(tmp_path, default):
    results, windows = [], list(make_data())
    for context in (nullcontext, default):
        torch.manual_seed(0)
        model = Net()
        # Adam makes a tensor on the default device.
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with context():
            trainer, losses = train(model, optimizer, windows, tmp_path / context.__name__)
        results.append([*everything(trainer), torch.tensor(losses)])
    assert same(*results)


def test_no_warning_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer().fit(make_data(), progress=False)


@pytest.mark.parametrize("lengths", [[9, 5], [9, 3], [-1, 5]])
def test_lengths_beyond_the_window_are_refused(lengths):
    x, none = torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    window = Window(x, x, none, torch.tensor(lengths), ~none)
    trainer = make_trainer()
    refused(trainer, ValueError, r"lengths must be 0 to T = 5, got", lambda: trainer.update(window))


def test_norms_and_optimizers_that_cannot_be_are_refused():
    model = Net()
    for norm in ("1", True, None.__class__, [1.0]):
        with pytest.raises(TypeError, match="clip_grad_norm must be a number, got"):
            Trainer(
                model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss(), clip_grad_norm=norm
            )
    with pytest.raises(TypeError, match="without a closure; LBFGS runs the model several times"):
        Trainer(model, torch.optim.LBFGS(model.parameters()), nn.MSELoss())
