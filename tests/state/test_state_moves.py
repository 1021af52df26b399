"""The resident state when the module is cast, moved, copied, pickled or loaded."""

import copy
import io
import pickle

import pytest
import torch
from state_support import (
    assert_unmoved,
    call,
    close,
    every_mode,
    make,
    noise,
    same_bits,
    snapshot,
)

C_DTYPE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
every_dtype = pytest.mark.parametrize("dtype", C_DTYPE, ids=str)


@every_dtype
@every_mode
def test_c_is_kept_wide_and_returned_in_the_dtype_of_the_parameters(dtype, steps, grad):
    lstm = make(dtype=dtype)
    for seed in (1, 2):
        y, (h_n, c_n) = call(lstm, noise(steps, 4, 3, seed=seed, dtype=dtype), grad)
        assert y.dtype == h_n.dtype == c_n.dtype == dtype
        assert lstm.state.h.dtype == dtype
        assert lstm.state.c.dtype == C_DTYPE[dtype]
        assert same_bits(lstm.state.c.to(dtype), c_n)
    assert lstm.new_state(2).c.dtype == lstm.allocate_state(2).c.dtype == C_DTYPE[dtype]


def integrator(dtype):
    """c = 1, growing by sigmoid(-8) a step: rounded to 16 bits at each call it stands still."""
    lstm = make(dtype=dtype, input_size=1, hidden_size=1)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.zero_()
        lstm.bias_ih_l0.copy_(torch.tensor([-8.0, 20.0, 20.0, 0.0]))  # f = g = 1
    lstm.allocate_state(1)
    lstm.state.write((torch.zeros(1, 1, 1), torch.ones(1, 1, 1)))
    return lstm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_mode
def test_the_wide_c_is_what_the_next_call_starts_from(dtype, steps, grad):
    lstm = integrator(dtype)
    for _ in range(8):
        call(lstm, torch.zeros(steps, 1, 1, dtype=dtype), grad)
    grown = 1 + 8 * steps * torch.sigmoid(torch.tensor(-8.0))
    close(lstm.state.c.squeeze(), grown, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_under_autocast_too_the_next_call_starts_from_the_wide_c(steps, grad):
    lstm = integrator(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(8):
            call(lstm, torch.zeros(steps, 1, 1), grad)
    assert lstm.state.c.dtype == torch.float32
    grown = 1 + 8 * steps * torch.sigmoid(torch.tensor(-8.0))
    close(lstm.state.c.squeeze(), grown, rtol=1e-4, atol=1e-4)


@every_dtype
@pytest.mark.parametrize("start", [torch.float32, torch.float64], ids=str)
def test_a_cast_takes_the_state_along_by_the_same_rule(start, dtype):
    lstm = make(dtype=start)
    lstm(noise(2, 4, 3, dtype=start))
    h, c = lstm.state.read()
    lstm.to(dtype)
    assert same_bits(lstm.state.h, h.to(dtype))
    assert same_bits(lstm.state.c, c.to(C_DTYPE[dtype]))
    lstm(noise(2, 4, 3, dtype=dtype))
    assert lstm.state.h.dtype == dtype and lstm.state.c.dtype == C_DTYPE[dtype]


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_the_cast_methods_keep_the_rule(cast):
    lstm = make(dtype=torch.float32)
    lstm(noise(2, 4, 3, dtype=torch.float32))
    c = lstm.state.read()[1]
    getattr(lstm, cast)()
    dtype = lstm.weight_hh_l0.dtype
    assert lstm.state.h.dtype == dtype
    assert same_bits(lstm.state.c, c.to(C_DTYPE[dtype]))


def test_a_cast_of_the_whole_model_reaches_the_state():
    model = torch.nn.Sequential(make(dtype=torch.float32))
    model[0](noise(2, 4, 3, dtype=torch.float32))
    model.double()
    assert model[0].state.h.dtype == model[0].state.c.dtype == torch.float64


def test_the_state_follows_the_module_to_another_device():
    lstm = make()
    lstm(noise(2, 4, 3))
    lstm.to("meta")
    assert lstm.state.h.device.type == lstm.state.c.device.type == "meta"
    assert lstm.state.slots == 4
    y, _ = lstm(torch.empty(2, 4, 3, dtype=torch.float64, device="meta"))
    assert y.shape == (2, 4, 5) and y.device.type == "meta"


def test_a_move_to_where_it_is_changes_no_address():
    lstm = make()
    lstm(noise(2, 4, 3))
    before = snapshot(lstm.state)
    lstm.to("cpu")
    lstm.to(torch.float64)
    assert_unmoved(before, lstm.state)


def test_a_deep_copy_has_the_same_state_in_its_own_buffers():
    lstm = make()
    lstm(noise(2, 4, 3))
    twin = copy.deepcopy(lstm)
    assert same_bits(twin.state.h, lstm.state.h) and same_bits(twin.state.c, lstm.state.c)
    before = snapshot(lstm.state)
    twin_y, _ = twin(noise(2, 4, 3, seed=2))
    assert_unmoved(before, lstm.state)
    y, _ = lstm(noise(2, 4, 3, seed=2))
    assert same_bits(y, twin_y)
    twin.reset_state()
    assert lstm.state.h.any()


def test_a_deep_copy_of_a_fresh_layer_is_fresh():
    assert copy.deepcopy(make()).state is None


def test_a_deep_copied_layer_can_be_trained_apart():
    lstm = make()
    twin = copy.deepcopy(lstm)
    twin(noise(2, 4, 3))[0].sum().backward()
    assert all(p.grad is None for p in lstm.parameters())
    assert all(p.grad is not None for p in twin.parameters())


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


def through_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("carry", [through_pickle, through_torch_save])
def test_a_pickle_leaves_the_state_out(carry):
    lstm = make(num_layers=2, recurrent_dropout=0.25, recompute="gates").eval()
    fresh_y, _ = call(lstm, noise(2, 4, 3))
    copied = carry(lstm)
    assert copied.state is None and lstm.state is not None
    assert same_bits(call(copied, noise(2, 4, 3))[0], fresh_y)
    assert repr(copied) == repr(lstm) and not copied.training
    assert copied.stateful and copied.recurrent_dropout == 0.25


def test_pickling_does_not_disturb_the_layer():
    lstm = make()
    lstm(noise(2, 4, 3))
    before = snapshot(lstm.state)
    pickle.dumps(lstm)
    assert_unmoved(before, lstm.state)


def test_the_state_is_in_no_list_of_the_module():
    lstm = make()
    lstm(noise(2, 4, 3))
    weights = {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    assert set(lstm.state_dict()) == weights
    assert {name for name, _ in lstm.named_parameters()} == weights
    assert list(lstm.buffers()) == [] and list(lstm.children()) == []


def test_the_state_survives_strict_loading():
    lstm = make()
    lstm(noise(2, 4, 3))
    before = snapshot(lstm.state)
    lstm.load_state_dict(make(seed=9).state_dict(), strict=True)
    assert_unmoved(before, lstm.state)
