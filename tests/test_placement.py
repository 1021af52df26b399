"""Where weights and states are: made on meta, given numbers later, moved."""

import pytest
import torch
from state_support import every_mode, make, noise

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
