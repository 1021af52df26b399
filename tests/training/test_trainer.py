"""``Trainer``: an update does the work of a plain loop; fit, evaluate, and their effects."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training_support import Net, everything, make_data, make_trainer, same, sequences

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches, Window
from stateful_lstm.training import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_updates_are_those_of_a_plain_loop():
    trainer, plain = make_trainer(), make_trainer()
    model, optimizer = plain.model, plain.optimizer
    torch.manual_seed(5)
    losses = []
    for window in make_data():
        output = model(window.input, window.reset_mask, window.lengths)
        loss = nn.functional.mse_loss(output[window.target_mask], window.target[window.target_mask])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        plain.scheduler.step()
        losses.append(loss.item())
    torch.manual_seed(5)
    for window, loss in zip(make_data(), losses, strict=True):
        trainer.update(window)
        assert trainer.current_loss() == loss
    for one, other in zip(everything(trainer)[:-1], everything(plain)[:-1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("batch_first", [False, True])
def test_classes_as_targets_and_either_layout(batch_first):
    class Classes(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = StatefulLSTM(3, 8, batch_first=batch_first)
            self.head = nn.Linear(8, 4)

        def forward(self, x, **control):
            return self.head(self.lstm(x, **control)[0])

    x = sequences()
    labels = [torch.randint(0, 4, (len(s),)) for s in x]
    data = ContinuousBatches(x, 2, 5, targets=labels, batch_first=batch_first)
    torch.manual_seed(0)
    model = Classes()
    trainer = Trainer(model, torch.optim.Adam(model.parameters(), 3e-2), nn.CrossEntropyLoss())
    history = trainer.fit(data, epochs=15, progress=False)
    assert history[-1] < history[0] < 2


def test_the_layer_by_itself_is_a_model():
    torch.manual_seed(0)
    lstm = StatefulLSTM(3, 3)
    trainer = Trainer(lstm, torch.optim.SGD(lstm.parameters(), 0.1), nn.MSELoss())
    assert len(trainer.fit(make_data(), progress=False)) == 1 and lstm.state is not None


class WithoutMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = StatefulLSTM(3, 3)

    def forward(self, x):
        return self.lstm(x)[0]


def test_a_model_without_reset_mask_is_reset_between_windows():
    # All begin with a window, but not both rows with the same one.
    x = [torch.randn(n, 3) for n in (5, 15, 10, 5, 10)]
    data = ContinuousBatches(x, 2, 5)
    assert any(0 < w.reset_mask[0].sum() < 2 for w in data)
    results = []
    for kind in (StatefulLSTM, WithoutMask):
        torch.manual_seed(0)
        model = kind(3, 3) if kind is StatefulLSTM else kind()
        trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss())
        trainer.fit(data, epochs=2, progress=False)
        results.append([*model.parameters()])  # the states go on in the padding of one of them
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)

    inside = next(w for w in ContinuousBatches(x, 2, 4) if w.reset_mask[1:].any())
    before = everything(trainer)
    with pytest.raises(ValueError, match="forward takes no reset_mask"):
        trainer.update(inside)
    assert same(everything(trainer), before)
    by_hand = Trainer(
        model,
        trainer.optimizer,
        nn.MSELoss(),
        forward=lambda m, w: m.lstm(w.input, reset_mask=w.reset_mask),
    )
    by_hand.update(inside)
    assert by_hand.updates == 1


def test_only_steps_with_a_target_count():
    trainer = make_trainer(Net(dropout=0.0))
    window = Window.pad([torch.randn(2, 3), torch.randn(6, 3)])
    window.target[~window.target_mask] = float("nan")
    window.input[2:, 0] = float("nan")
    trainer.update(window)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_window_of_padding_changes_nothing_but_counts():
    trainer = make_trainer(Net(dropout=0.0))
    data = list(make_data(batch_size=1))
    trainer.update(data[0])
    loss = trainer.current_loss()
    nothing = Window.pad([torch.randn(1, 3)])  # a sequence of one step has no target
    before = [p.clone() for p in trainer.model.parameters()]
    moments = deepcopy(trainer.optimizer.state_dict()["state"])
    trainer.optimizer.zero_grad()
    trainer.update(nothing)
    assert trainer.current_loss() == loss and trainer.updates == 2
    assert all(not p.grad.any() for p in trainer.model.parameters())
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert str(trainer.optimizer.state_dict()["state"]) == str(moments)
    first = make_trainer(Net(dropout=0.0))
    first.update(nothing)
    assert first.scheduler.last_epoch == 0
    with pytest.raises(RuntimeError, match="call update first, with targets"):
        first.current_loss()


def test_schedulers_step_at_updates_or_epochs():
    data = make_data()
    for schedule, steps in (("update", 2 * len(data)), ("epoch", 2)):
        trainer = make_trainer(schedule=schedule)
        trainer.fit(make_data(shuffle=False), epochs=2, progress=False)
        steps = 2 * len(make_data(shuffle=False)) if schedule == "update" else steps
        assert trainer.scheduler.last_epoch == steps
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)
    trainer = Trainer(model, optimizer, nn.MSELoss(), scheduler=plateau, schedule="epoch")
    trainer.fit(data, epochs=3, progress=False)
    assert optimizer.param_groups[0]["lr"] < 0.5


def test_autocast_computes_in_the_dtype_it_names():
    seen = []
    model = Net()
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer = make_trainer(model, autocast=torch.bfloat16)
    trainer.fit(make_data(), progress=False)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    trainer.evaluate(make_data())
    assert set(seen) == {torch.bfloat16}


def test_a_loss_that_turns_nan_names_the_update_and_changes_no_parameter():
    trainer = make_trainer()
    windows = list(make_data())
    for window in windows[:3]:
        trainer.update(window)
    windows[3].target.fill_(float("nan"))
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(FloatingPointError, match="the loss of update 4 is nan"):
        trainer.update(windows[3])
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert trainer.updates == 3
    with pytest.raises(RuntimeError, match="call update first"):
        make_trainer().current_loss()


# ---- fit -----------------------------------------------------------------------------------------


def test_fit_returns_the_mean_losses_and_calls_back():
    trainer, twin = make_trainer(), make_trainer()
    seen = []

    def callback(each):
        seen.append((each.epoch, each.updates, each.current_loss()))

    torch.manual_seed(3)
    history = trainer.fit(make_data(), epochs=3, progress=False, callback=callback)
    torch.manual_seed(3)
    data, means = make_data(), []
    for _ in range(3):
        sums = torch.zeros(2, dtype=torch.float64)
        for window in data:
            twin.update(window)
            n = int(window.target_mask.sum())
            sums += torch.tensor([twin.current_loss() * n, n], dtype=torch.float64)
        means.append(float(sums[0] / sums[1]))
    assert history == pytest.approx(means, rel=1e-12)
    assert same(everything(trainer), everything(twin))
    assert [update for _, update, _ in seen] == list(range(1, trainer.updates + 1))
    assert {epoch for epoch, _, _ in seen} == {0, 1, 2}


def test_a_callback_stops_training():
    trainer = make_trainer()
    data = make_data()
    history = trainer.fit(
        data, 9, progress=False, callback=lambda t: "stop" if t.updates == 4 else None
    )
    assert trainer.updates == 4 and len(history) == 1
    # What was stopped is over: the next fit begins an epoch.
    trainer.fit(data, progress=False)
    assert trainer.updates == 4 + len(make_data())


@pytest.mark.parametrize("listed", [False, True])
def test_after_an_exception_a_fit_begins_anew(listed):
    def fail(trainer):
        if trainer.updates == 20:  # in the second epoch
            raise KeyboardInterrupt

    data = make_data(shuffle=False)
    trainer, windows = make_trainer(), list(data) if listed else data
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(windows, epochs=3, progress=False, callback=fail)
    assert len(trainer.fit(windows, epochs=2, progress=False)) == 2
    assert trainer.updates == 20 + 2 * len(make_data(shuffle=False))


def test_progress_shows_loss_rate_and_time_left(capsys):
    make_trainer().fit(make_data(), epochs=2)
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown and "100%" in shown
    assert "loss=" in shown and "step/s" in shown and "<00:0" in shown
    make_trainer().fit(make_data(), progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_gives_the_same_training(workers):
    results = []
    for loaded in (False, True):
        torch.manual_seed(0)
        trainer = make_trainer(Net(dropout=0.0))  # a loader draws a number too
        data = make_data()
        windows = DataLoader(data, batch_size=None, num_workers=workers) if loaded else data
        trainer.fit(windows, epochs=3, progress=False)
        results.append([*trainer.model.state_dict().values()])
    assert same(*results)


def test_a_fit_on_other_data_begins_at_its_beginning():
    trainer, other = make_trainer(), make_data(batch_size=2, window=3)
    trainer.fit(make_data(), epochs=2, progress=False)
    done = trainer.updates
    trainer.fit(other, progress=False)
    assert trainer.updates - done == len(make_data(batch_size=2, window=3))


def test_a_list_of_windows_will_do_and_an_iterator_will_not():
    windows = list(make_data())
    trainer = make_trainer()
    trainer.fit(windows, epochs=2, progress=False)
    assert trainer.updates == 2 * len(windows)
    with pytest.raises(TypeError, match="more than once"):
        trainer.fit(iter(windows))
    with pytest.raises(TypeError, match=r"expected a stateful_lstm.data.Window, got a tensor"):
        trainer.fit([torch.randn(5, 2, 3)], progress=False)


# ---- evaluate ------------------------------------------------------------------------------------


def test_evaluate_is_the_mean_loss_from_zero_states():
    trainer = make_trainer()
    trainer.fit(make_data(), progress=False)
    twin = Net().eval()
    twin.load_state_dict(trainer.model.state_dict())
    twin.lstm.allocate_state(3)
    total = count = 0
    with torch.no_grad():
        for w in make_data(batch_size=3):
            output = twin(w.input, w.reset_mask, w.lengths)[w.target_mask]
            total += nn.functional.mse_loss(output, w.target[w.target_mask], reduction="sum")
            count += output.numel()
    found = trainer.evaluate(make_data(batch_size=3))  # other rows than in training
    assert found == pytest.approx(float(total / count), rel=1e-5)


class Drawing:
    """Windows of a data set that draws random numbers of all kinds."""

    def __iter__(self):
        for window in make_data():
            random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
            yield window


def test_evaluate_leaves_no_trace():
    def leave_traces(trainer):
        trainer.model.head.eval()  # a mode of its own
        before = everything(trainer), trainer.model.lstm.state.h.data_ptr()
        others = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        trainer.evaluate(data)
        trainer.evaluate(make_data(batch_size=4))
        trainer.evaluate(Drawing())
        assert same(everything(trainer), before[0])
        assert trainer.model.lstm.state.h.data_ptr() == before[1]
        assert others == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        assert trainer.model.training and not trainer.model.head.training

    results = []
    for callback in (leave_traces, lambda trainer: None):
        trainer, data = make_trainer(), make_data()
        trainer.fit(data, epochs=2, progress=False, callback=callback)
        results.append([everything(trainer), [torch.tensor(data.epoch)]])
    assert same(results[0][0], results[1][0]) and same(results[0][1], results[1][1])


def test_evaluate_on_nothing_is_refused():
    with pytest.raises(ValueError, match="no targets"):
        make_trainer().evaluate(ContinuousBatches([torch.randn(1, 3)], 1, 1))


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be positive, got 0.0"),
        ({"schedule": "step"}, "schedule must be 'update' or 'epoch', got 'step'"),
        ({"autocast": torch.float64}, "autocast must be"),
        ({"autocast": torch.float16}, "needs CUDA"),
    ],
)
def test_options_that_do_not_fit(options, text):
    model = Net()
    with pytest.raises(ValueError, match=text):
        Trainer(model, torch.optim.SGD(model.parameters()), nn.MSELoss(), **options)


def test_models_losses_and_windows_that_do_not_fit():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="pass schedule='epoch'"):
        Trainer(model, optimizer, nn.MSELoss(), scheduler=plateau)
    with pytest.raises(ValueError, match="has no parameters"):
        Trainer(nn.Identity(), optimizer, nn.MSELoss())
    window = next(iter(make_data()))
    with pytest.raises(ValueError, match="must return the mean"):
        Trainer(model, optimizer, nn.MSELoss(reduction="none")).update(window)
    last_step = Trainer(model, optimizer, nn.MSELoss(), forward=lambda m, w: m(w.input)[-1:])
    with pytest.raises(ValueError, match=r"is \(1, 2, 3\) for targets \(5, 2, 3\)"):
        last_step.update(window)
    other = Window.pad([torch.randn(4, 3)])
    with pytest.raises(
        ValueError, match=r"target must be .* like its input, \(5, 2\); got shape \(4, 1, 3\)"
    ):
        bad = Window(
            window.input, other.target, window.reset_mask, window.lengths, other.target_mask
        )
        make_trainer().update(bad)


@pytest.mark.parametrize("stateful", [True, False])
def test_arguments_without_a_default_are_always_given(stateful):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = StatefulLSTM(3, 3, stateful=stateful)

        def forward(self, x, reset_mask, lengths):
            return self.lstm(x, reset_mask=reset_mask, lengths=lengths)[0]

    trainer, usual = make_trainer(Model()), make_trainer(StatefulLSTM(3, 3, stateful=stateful))
    usual.model.load_state_dict(trainer.model.lstm.state_dict())
    assert trainer.fit(make_data(), 2, False) == usual.fit(make_data(), 2, False)
