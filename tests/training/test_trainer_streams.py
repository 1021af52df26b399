"""The order of ``Trainer``'s requests to a device, on a CPU that plays the device.

The copies of a window run on a stream of their own, beside the work of earlier updates, and losses
come back without a wait. tests/gpu has the same on a device.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from training_support import Net, make_data, make_trainer

from stateful_lstm.data import Window
from stateful_lstm.training.losses import Losses


class Stream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(("wait", self.name, other.name))


@pytest.fixture
def device(monkeypatch):
    """A log of what is asked: ("copy", stream, pinned), ("wait", who, for whom) and the like."""
    log, pinned = [], set()
    work = Stream("work", log)
    now = [work]

    @contextmanager
    def on(stream):
        now.append(stream)
        yield
        now.pop()

    def pin_memory(tensor):
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        log.append(("pin", copy.data_ptr()))
        return copy

    true_to = Tensor.to

    def to(tensor, *args, **kwargs):
        if kwargs.get("non_blocking"):
            log.append(("copy", now[-1].name, tensor.data_ptr() in pinned))
            return tensor.clone()
        return true_to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: work)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: tensor.data_ptr() in pinned)
    monkeypatch.setattr(
        Tensor,
        "record_stream",
        lambda tensor, stream: log.append(("keep", stream.name, tensor.data_ptr())),
    )
    return log


def with_copies(log):
    trainer = make_trainer(Net(dropout=0.0))
    trainer.objective._copies = Stream("copies", log)
    return trainer


@pytest.mark.parametrize("pinned", [False, True])
def test_windows_are_copied_beside_the_work_of_earlier_updates(device, pinned):
    objective = with_copies(device).objective
    window = next(w for w in make_data() if not w.target_mask.all())
    if pinned:
        window = window.pin_memory()
    device.clear()
    staged = objective.stage(window)
    asked = [entry for entry in device if entry[0] != "pin"]
    copies = [entry for entry in asked if entry[0] == "copy"]
    # Five tensors and which steps have targets, all from pinned memory, all on the copies' stream,
    # which has waited for nothing.
    assert copies == 6 * [("copy", "copies", True)] and asked[:6] == copies
    assert asked[6] == ("wait", "work", "copies"), "the work waits for them, and they for nothing"
    kept = {entry[2] for entry in asked[7:]}
    assert all(entry[:2] == ("keep", "work") for entry in asked[7:])
    used = (*fields(staged.window)[:4], staged.where)
    assert kept >= {t.data_ptr() for t in used}, (
        "their memory is not given away before the work ends"
    )
    assert len([entry for entry in device if entry[0] == "pin"]) == (1 if pinned else 6)


def test_an_update_by_way_of_the_copies_is_the_same_update(device):
    plain, copied = make_trainer(Net(dropout=0.0)), with_copies(device)
    copied.model.load_state_dict(plain.model.state_dict())
    for window in make_data():
        plain.update(window)
        copied.update(window)
    assert copied.current_loss() == plain.current_loss()
    assert ("wait", "work", "copies") in device


def test_a_window_is_looked_at_before_it_is_copied(device):
    trainer = with_copies(device)
    good = next(iter(make_data()))
    bad = Window(*(t[:-1] if k == 1 else t for k, t in enumerate(fields(good))))
    with pytest.raises(ValueError, match="the window's target must be"):
        trainer.update(bad)
    assert not device


def fields(window):
    return (window.input, window.target, window.reset_mask, window.lengths, window.target_mask)


# ---- losses ------------------------------------------------------------------------------------


class OnDevice(Tensor):
    is_cuda = True


class Event:
    """One that passes when it is told to, and counts who waits for it."""

    def __init__(self, made):
        self.passed, self.waited = False, 0
        made.append(self)

    def record(self):
        pass

    def query(self):
        return self.passed

    def synchronize(self):
        self.waited += 1
        self.passed = True


@pytest.fixture
def events(monkeypatch):
    made, empty = [], torch.empty
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(made))
    monkeypatch.setattr(torch, "empty", lambda *n, pin_memory=False, **kw: empty(*n, **kw))
    return made


def loss(value, count=2):
    return torch.tensor([value, count], dtype=torch.float64).as_subclass(OnDevice)


def test_nobody_waits_for_a_loss_until_four_are_under_way(events):
    losses = Losses()
    for update in range(1, 5):
        losses.add(update, loss(float(update)))
    assert losses.last is None and not any(event.waited for event in events)
    losses.add(5, loss(5.0))
    assert [event.waited for event in events] == [1, 0, 0, 0, 0] and losses.last == 1.0
    events[1].passed = True
    losses.add(6, loss(6.0))
    assert losses.last == 2.0 and sum(event.waited for event in events) == 1
    losses.wait()
    assert losses.last == 6.0 and losses.mean == 3.5


def test_a_loss_that_is_not_finite_is_told_of_by_its_own_update(events):
    losses = Losses()
    losses.add(1, loss(1.0))
    losses.add(2, loss(float("nan")))
    losses.add(3, loss(3.0))
    with pytest.raises(FloatingPointError, match="the loss of update 2 is nan"):
        losses.wait()
    assert losses.last == 1.0
