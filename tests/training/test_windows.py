"""``Window``: the form of windows made by hand, and their repr."""

import dataclasses

import pytest
import torch

from stateful_lstm.data import Window
from stateful_lstm.data.window import check_window


def window(batch_first=False, **changes):
    made = Window.pad([torch.ones(5, 3), torch.ones(4, 3)], batch_first=batch_first)
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("batch_first", [False, True])
def test_sound_windows_pass(batch_first):
    check_window(window(batch_first))
    check_window(window(batch_first).to("meta"))
    check_window(window(batch_first, lengths=torch.tensor([5, 4], dtype=torch.int32)))
    T_B = (2, 5) if batch_first else (5, 2)
    check_window(window(batch_first, target=torch.ones(T_B, dtype=torch.int64)))


MASK = torch.ones(5, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"reset_mask": MASK.long()}, TypeError, "reset_mask must be a tensor of bool, got"),
        ({"target_mask": MASK.float()}, TypeError, "target_mask .* bool, got torch.float32"),
        ({"target_mask": MASK.T}, ValueError, r"target_mask must be \(5, 2\), got \(2, 5\)"),
        ({"reset_mask": MASK[..., None]}, ValueError, r"reset_mask .* got \(5, 2, 1\)"),
        ({"lengths": torch.tensor([5.0, 4.0])}, TypeError, "lengths .* int64 or int32, got"),
        ({"lengths": torch.ones(5).long()}, ValueError, r"lengths must be \(2,\), got \(5,\)"),
        ({"lengths": [5, 4]}, TypeError, "lengths must be a tensor, got a list"),
        ({"target": None}, TypeError, "target must be a tensor, got None"),
        ({"target": torch.ones(5)}, ValueError, r"target must be \(T, B, ...\)"),
        ({"input": torch.ones(5)}, ValueError, r"input must be \(T, B, ...\), got shape \(5,\)"),
    ],
)
def test_windows_made_by_hand_are_refused_by_name(changes, error, text):
    with pytest.raises(error, match=f"the window's {text}"):
        check_window(window(**changes))


def test_only_windows_are_windows():
    with pytest.raises(TypeError, match=r"expected a stateful_lstm\.data\.Window, got a tuple"):
        check_window((torch.ones(5, 2, 3), torch.ones(5, 2, 3)))


def test_with_the_batch_first_lengths_are_of_the_first_size():
    check_window(window(True))
    with pytest.raises(ValueError, match=r"lengths must be \(2,\), got \(5,\)"):
        check_window(window(True, lengths=torch.ones(5, dtype=torch.int64)))


def test_the_repr_says_sizes():
    made = window(position={"epoch": 1, "window": 4, "seed": 3})
    expected = "input=float32 (5, 2, 3), target=float32 (5, 2, 3), batch_first=False"
    assert repr(made) == f"Window({expected}, epoch=1, window=4)"
    assert repr(window().to("meta")) == f"Window({expected})"
    assert "target=NoneType" in repr(window(target=None))
