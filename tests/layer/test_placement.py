"""Devices of weights and states: built on meta, filled later, moved."""

import pytest
import torch
from state_support import every_mode, make, noise

import stateful_lstm
from stateful_lstm import StatefulLSTM


def on_meta():
    with torch.device("meta"):
        return StatefulLSTM(3, 5, dtype=torch.float64)


@every_mode
@pytest.mark.parametrize("given", [False, True], ids=["resident", "given"])
def test_a_state_from_meta_becomes_zeros_where_the_weights_are(steps, grad, given):
    lstm, twin, x = on_meta(), make(), noise(steps, 2, 3)
    state = lstm.new_state(2) if given else lstm.allocate_state(2)
    state.reset(torch.tensor([0]))  # there are no numbers to reset, and no error
    lstm.load_state_dict(twin.state_dict(), assign=True)
    with torch.set_grad_enabled(grad):
        for _ in range(2):
            y, _ = lstm(x, state=state if given else None)
            expected, _ = twin(x)
            torch.testing.assert_close(y, expected)
    assert state.h.device.type == "cpu"
    assert lstm.state is (None if given else state)


def test_a_state_from_meta_follows_before_the_weights_are_assigned_too():
    lstm = on_meta()
    lstm.allocate_state(2)
    lstm.to_empty(device="cpu")
    assert lstm.state.h.device.type == "cpu"
    assert not lstm.state.h.any()


def test_offloaded_weights_leave_the_state_where_calls_need_it():
    """As accelerate's cpu_offload has it: real weights during a call, meta between calls."""
    lstm, twin, x = make(), make(), noise(4, 2, 3)
    weights = {name: p.detach().clone() for name, p in lstm.named_parameters()}

    def place(device):
        for name in weights:
            value = (
                weights[name] if device == "cpu" else torch.empty_like(weights[name], device="meta")
            )
            setattr(lstm, name, torch.nn.Parameter(value))

    lstm.register_forward_pre_hook(lambda *_: place("cpu"))
    lstm.register_forward_hook(lambda *_: place("meta"))
    place("meta")
    lstm.allocate_state(2)
    for _ in range(3):
        torch.testing.assert_close(lstm(x)[0], twin(x)[0])
    other = lstm.new_state(2)
    twin.reset_state()
    torch.testing.assert_close(lstm(x, state=other)[0], twin(x)[0])
    lstm.reset_state()
    twin.reset_state()
    torch.testing.assert_close(lstm(x)[0], twin(x)[0])


def test_preserve_state_puts_back_a_state_from_meta_as_zeros():
    lstm = on_meta()
    lstm.allocate_state(2)
    lstm.load_state_dict(make().state_dict(), assign=True)
    with lstm.preserve_state():
        lstm(noise(4, 2, 3))
    assert not lstm.state.h.any()
    assert not lstm.state.c.any()


def test_a_failed_call_leaves_a_state_on_meta_there():
    lstm = on_meta()
    lstm.allocate_state(2)
    lstm.load_state_dict(make().state_dict(), assign=True)
    with pytest.raises(ValueError, match="3 rows"):
        lstm(noise(4, 3, 3))
    assert lstm.state.h.is_meta


def test_a_meta_layer_runs_on_meta_and_keeps_its_state_there():
    lstm = on_meta()
    y, _ = lstm(torch.empty(4, 2, 3, dtype=torch.float64, device="meta"))
    assert y.is_meta
    assert lstm.state.h.is_meta


def test_slots_are_selected_on_the_cpu_under_another_default_device():
    lstm = make()
    lstm(noise(2, 4, 3))
    with torch.device("meta"):
        lstm.reset_state([1, 2])
        h, _ = lstm.state.read([0, 3])
        lstm.allocate_state(2)
        lstm(noise_here(2))
    assert h.device.type == "cpu"
    assert lstm.state.h.device.type == "cpu"


def noise_here(B):
    return torch.randn(2, B, 3, dtype=torch.float64, device="cpu")


@every_mode
@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_hh_l0", "weight_ih_l1", "weight_hr_l1"])
@pytest.mark.parametrize("stateful", [True, False])
def test_weights_of_which_some_are_on_meta_are_refused(steps, grad, name, stateful):
    lstm = make(num_layers=2, proj_size=2, stateful=stateful)
    x = noise(steps, 2, 3)
    lstm(x)
    before = None if lstm.state is None else lstm.state.read()
    setattr(lstm, name, torch.nn.Parameter(torch.empty_like(getattr(lstm, name), device="meta")))
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=rf"{name} is .* on meta"):
        lstm(x)
    assert before is None or all(map(torch.equal, lstm.state.read(), before))


def test_weights_of_several_dtypes_are_refused_by_name():
    lstm = make()
    lstm.bias_ih_l0 = torch.nn.Parameter(lstm.bias_ih_l0.detach().float())
    with pytest.raises(RuntimeError, match=r"bias_ih_l0 is torch.float32 on cpu, weight_ih_l0 is"):
        lstm(noise(2, 2, 3))


def test_a_state_that_is_set_while_the_weights_are_on_meta_is_kept():
    lstm, twin = make(), on_meta()
    x = noise(4, 2, 3)
    lstm(x)
    stateful_lstm.set_state(twin, stateful_lstm.get_state(lstm))
    twin.load_state_dict(lstm.state_dict(), assign=True)
    assert torch.equal(twin(x)[0], lstm(x)[0])
    state = on_meta().new_state(3)
    state.write((noise(1, 2, 5), noise(1, 2, 5, seed=3)), [2, 0])
    assert torch.equal(state.h[:, [2, 0]], noise(1, 2, 5))
    assert not state.h[:, 1].any()


def test_autocast_mixes_dtypes_of_weights_but_not_with_float64():
    lstm = make(dtype=torch.float32)
    x = noise(2, 2, 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        lstm.bias_ih_l0 = torch.nn.Parameter(lstm.bias_ih_l0.detach().bfloat16())
        lstm(x)
        lstm.bias_ih_l0 = torch.nn.Parameter(lstm.bias_ih_l0.detach().double())
        with pytest.raises(RuntimeError, match=r"bias_ih_l0 is torch.float64 on cpu"):
            lstm(x)
