"""The fast path of inference: calls that do not take it, and have no effect on the way."""

import os
import subprocess
import sys

import pytest
import torch
from fastpath_support import Seen, assert_long, assert_quick, filled, needs_fastpath
from state_support import (
    assert_unmoved,
    by_hand,
    call,
    close,
    make,
    noise,
    plain,
    refused,
    same_bits,
    snapshot,
)
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from stateful_lstm.backend import operators

pytestmark = needs_fastpath

# ---- where it is not -----------------------------------------------------------------------------


def test_not_with_gradients(spy):
    lstm, x = filled(), noise(2, 4, 3)
    y = assert_long(spy, lstm, x)
    assert y.requires_grad
    y.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in lstm.parameters())


def test_not_with_gradients_of_the_input_alone(spy):
    lstm, x = filled().requires_grad_(False), noise(2, 4, 3).requires_grad_()
    assert_long(spy, lstm, x).sum().backward()
    assert x.grad.any()


def test_not_under_autocast(spy):
    lstm, twin = filled(dtype=torch.float32), filled(dtype=torch.float32)
    x = noise(2, 4, 3, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, _ = lstm(x)
        expected, _ = spy.regular_path(twin, x)
    assert not spy.taken
    assert y.dtype == torch.bfloat16 and same_bits(y, expected)


def test_not_under_the_profiler_which_then_sees_the_operator(spy):
    lstm, x = filled(), noise(2, 4, 3)
    with torch.no_grad(), torch.profiler.profile(acc_events=True) as profile:
        y, _ = lstm(x)
    assert not spy.taken
    assert "stateful_lstm::lstm_step_" in {event.key for event in profile.key_averages()}
    assert same_bits(y, call(filled(), x)[0]) and spy.taken


def test_not_under_the_older_profiler(spy):
    with torch.no_grad(), torch.autograd.profiler.profile() as profile:
        filled()(noise(2, 4, 3))
    assert not spy.taken
    assert "stateful_lstm::lstm_step_" in {event.key for event in profile.key_averages()}


def test_not_under_a_dispatch_mode_which_then_sees_the_operator(spy):
    lstm, x = filled(), noise(2, 4, 3)
    with torch.no_grad(), Seen() as seen:
        assert_long(spy, lstm, x)
    assert any("lstm_step_" in name for name in seen.names)


def test_not_under_a_function_transform(spy):
    lstm, x = make(stateful=False), noise(5, 2, 4, 3)
    call(lstm, x[0], state=lstm.new_state(4))
    assert spy.taken
    spy.taken = False
    with torch.no_grad():
        found = torch.func.vmap(lambda each: lstm(each)[0])(x)
    assert not spy.taken
    close(found, torch.stack([call(lstm, each)[0] for each in x]))


def test_not_under_a_function_transform_of_something_else(spy):
    lstm, x = filled(), noise(2, 4, 3)
    before = lstm.state.read()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"torch\.func transforms"):
        torch.func.vmap(lambda each: each + lstm(x)[0].sum())(noise(5))
    assert not spy.taken
    assert all(map(same_bits, lstm.state.read(), before))


def test_a_function_transform_refuses_the_resident_state_as_ever(spy):
    lstm = filled()
    with refused(RuntimeError, "transforms", untouched=[lstm]), torch.no_grad():
        torch.func.vmap(lambda each: lstm(each)[0])(noise(5, 2, 4, 3))
    assert not spy.taken


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_not_while_tracing_where_it_is_refused(spy):
    lstm, x = filled(), noise(2, 4, 3)
    with (
        torch.no_grad(),
        refused(RuntimeError, "torch.jit.trace", "stateful=False", untouched=[lstm]),
    ):
        torch.jit.trace(lstm, x)
    assert not spy.taken


def test_not_inside_a_backward_pass_where_it_is_refused(spy):
    lstm, x = filled(), noise(2, 4, 3)
    leaf = noise(3).requires_grad_()
    loss = leaf.square().sum()
    leaf.register_hook(lambda grad: call(lstm, x)[0].sum() * grad)
    with refused(RuntimeError, "inside a backward pass", untouched=[lstm]):
        loss.backward()
    assert not spy.taken


def test_not_on_meta(spy):
    lstm = filled().to("meta")
    y, (h_n, c_n) = call(lstm, noise(2, 4, 3).to("meta"))
    assert not spy.taken
    assert y.is_meta and y.shape == (2, 4, 5) and h_n.shape == c_n.shape == (1, 4, 5)


class Wrapped(torch.Tensor):
    """A subclass that keeps count of what is done with it."""

    seen = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def test_not_with_an_input_of_another_class(spy):
    lstm, x = filled(), noise(2, 4, 3)
    y = call(lstm, x.as_subclass(Wrapped))[0]
    assert not spy.taken and Wrapped.seen > 0
    assert same_bits(y.as_subclass(torch.Tensor), call(filled(), x)[0])


def test_not_with_a_weight_of_another_class(spy):
    lstm, x = filled(), noise(2, 4, 3)
    lstm._parameters["weight_hh_l0"] = lstm.weight_hh_l0.detach().as_subclass(Wrapped)
    y = call(lstm, x)[0]
    assert not spy.taken
    assert same_bits(y.as_subclass(torch.Tensor), call(filled(), x)[0])


def complexes(*shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator, dtype=torch.cdouble)


# Parts of conjugates are read with the other sign: the bit that says so is in no DLPack tensor.
NEGATIVE = {
    "one_number_a_row": complexes(1, 3, 1).conj().imag,
    "one_number": complexes(1, 1, 1).conj().imag,
    "several_steps": complexes(3, 3, 1).conj().imag,
    "rows": complexes(1, 3, 3).conj().imag,
    "dense_again": complexes(1, 9, 1).conj().imag.as_strided((1, 3, 3), (9, 3, 1)),
}


@pytest.mark.parametrize("x", NEGATIVE.values(), ids=NEGATIVE)
def test_an_input_read_with_the_other_sign(spy, x):
    assert x.is_neg()
    inputs, slots = x.size(2), x.size(1)
    y = call(filled(slots, input_size=inputs), x)[0]
    taken = spy.taken
    assert same_bits(y, call(filled(slots, input_size=inputs), x.clone())[0])
    assert not taken


def test_a_weight_read_with_the_other_sign(spy):
    lstm = filled()
    weight = complexes(20, 3).conj().imag.as_strided((20, 3), (3, 1))
    assert weight.is_neg() and weight.is_contiguous()
    lstm.weight_ih_l0 = nn.Parameter(weight)
    with torch.no_grad():
        assert_long(spy, lstm, noise(1, 4, 3))


@pytest.mark.parametrize(
    "x",
    [noise(2, 4, 6)[..., ::2], noise(3, 4, 2).permute(2, 1, 0), noise(2, 4, 1).expand(2, 4, 3)],
    ids=["strided", "permuted", "expanded"],
)
def test_not_with_an_input_whose_numbers_lie_apart(spy, x):
    y = call(filled(), x)[0]
    assert not spy.taken
    assert same_bits(y, call(filled(), x.contiguous())[0]) and spy.taken


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l1", "bias_hh_l0"])
def test_not_with_a_weight_that_is_not_dense(spy, name):
    lstm, x = filled(num_layers=2), noise(2, 4, 3)
    weight = getattr(lstm, name)
    weight.data = weight.data.repeat_interleave(2, -1)[..., ::2]
    y = call(lstm, x)[0]
    assert not spy.taken
    assert same_bits(y, call(filled(num_layers=2), x)[0]) and spy.taken


def test_not_with_a_parametrized_weight(spy):
    lstm = weight_norm(filled(), "weight_hh_l0")
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)
        assert_long(spy, lstm, noise(2, 4, 3))


@pytest.mark.parametrize(
    "dropout", [{"dropout": 0.5, "num_layers": 2}, {"recurrent_dropout": 0.5}], ids=str
)
def test_not_with_dropout_in_training(spy, dropout):
    lstm, twin = filled(**dropout), filled(**dropout)
    x = noise(2, 4, 3)
    torch.manual_seed(5)
    y = call(lstm, x)[0]
    assert not spy.taken
    torch.manual_seed(5)
    with torch.no_grad():
        assert same_bits(y, spy.regular_path(twin, x)[0])
    assert not same_bits(y, call(filled(**dropout).eval(), x)[0])


def test_not_with_an_unbatched_input(spy):
    lstm, x = filled(slots=1), noise(2, 3)
    y = call(lstm, x)[0]
    assert not spy.taken
    assert same_bits(y, call(filled(slots=1), x.unsqueeze(1))[0].squeeze(1))


def test_not_with_hx(spy):
    lstm, x = filled(), noise(2, 4, 3)
    hx = noise(1, 4, 5), noise(1, 4, 5)
    close(call(lstm, x, hx=hx)[0], plain(lstm)(x, hx)[0])
    assert not spy.taken


@pytest.mark.parametrize(
    "lengths", [[3, 0, 0, 0], [-1, 0, 0, 0], [1, 1], [1.0] * 4, [[1, 1, 1, 1]]]
)
def test_wrong_lengths_are_refused_as_ever(spy, lengths):
    assert_refused_alike(spy, filled(), noise(2, 4, 3), lengths=torch.tensor(lengths))


@pytest.mark.parametrize("which", ["h", "c"])
def test_not_with_an_input_that_is_part_of_the_state(spy, which):
    lstm = filled(input_size=5, num_layers=2)
    with torch.no_grad():
        for layer in (0, 1):
            x = getattr(lstm.state, which)[layer : layer + 1]
            start = lstm.state.read()
            expected = by_hand(lstm, x.clone(), start)[0]
            close(lstm(x)[0], expected)
            assert not spy.taken


def test_an_input_that_ends_where_the_state_begins_is_no_part_of_it(spy):
    lstm = filled()
    sea = noise(20 + 12)
    sea[12:] = lstm.state.h.flatten()
    lstm.state.h = sea[12:].view(1, 4, 5)
    x = sea[:12].view(1, 4, 3)
    assert_quick(spy, lstm, x)
    with torch.no_grad():
        assert_long(spy, lstm, sea[1:13].view(1, 4, 3))


def test_not_without_state(spy):
    lstm, x = make(stateful=False), noise(2, 4, 3)
    close(call(lstm, x)[0], plain(lstm)(x)[0])
    assert not spy.taken and lstm.state is None


def test_a_tensor_of_zeros_without_memory_is_no_plain_tensor():
    # In a process of its own: reading from address 0 would end this one.
    code = """
import torch
from stateful_lstm import StatefulLSTM
lstm = StatefulLSTM(3, 5)
lstm.allocate_state(4)
with torch.no_grad():
    assert lstm(torch._efficientzerotensor((1, 4, 3)))[0].any()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)


# ---- bad input -----------------------------------------------------------------------------------

BAD = {
    "too_wide": ((1, 4, 4), {}),
    "too_narrow": ((2, 4, 2), {}),
    "more_rows": ((1, 5, 3), {}),
    "fewer_rows": ((4, 3, 3), {}),
    "four_dimensions": ((1, 4, 3, 1), {}),
    "slot_too_large": ((1, 2, 3), {"state_indices": torch.tensor([0, 4])}),
    "slot_too_small": ((1, 2, 3), {"state_indices": torch.tensor([0, -2])}),
    "slot_too_small_int32": ((1, 2, 3), {"state_indices": torch.tensor([0, -2]).int()}),
    "slot_twice": ((1, 3, 3), {"state_indices": torch.tensor([2, 0, 2])}),
    "slots_of_other_rows": ((1, 3, 3), {"state_indices": torch.tensor([2, 0])}),
    "slots_of_two_dimensions": ((1, 2, 3), {"state_indices": torch.tensor([[2, 0]])}),
    "slots_of_floats": ((1, 2, 3), {"state_indices": torch.tensor([2.0, 0.0])}),
    "slots_of_bools": ((1, 2, 3), {"state_indices": torch.tensor([True, False])}),
    "slots_as_list": ((1, 2, 3), {"state_indices": [2, 0]}),
    "mask_too_wide": ((1, 4, 3), {"reset_mask": torch.zeros(1, 5, dtype=torch.bool)}),
    "mask_too_long": ((1, 4, 3), {"reset_mask": torch.zeros(2, 4, dtype=torch.bool)}),
    "mask_of_one_dimension": ((1, 4, 3), {"reset_mask": torch.zeros(4, dtype=torch.bool)}),
    "mask_of_ints": ((1, 4, 3), {"reset_mask": torch.zeros(1, 4, dtype=torch.uint8)}),
    "mask_as_list": ((1, 4, 3), {"reset_mask": [[True] * 4]}),
    "mask_of_a_slot_call": (
        (1, 2, 3),
        {"state_indices": torch.tensor([2, 0]), "reset_mask": torch.ones(1, 4, dtype=torch.bool)},
    ),
}


def assert_refused_alike(spy, lstm, x, **options):
    before, versions = snapshot(lstm.state), (lstm.state.h._version, lstm.state.c._version)
    told = []
    for way in (lstm, lambda x, **options: spy.regular_path(lstm, x, **options)):
        with torch.no_grad(), pytest.raises(Exception) as caught:  # noqa: PT011 - of any type
            way(x, **options)
        told.append((caught.type, str(caught.value)))
    assert not spy.taken
    assert told[0] == told[1]
    assert_unmoved(before, lstm.state)
    assert versions == (lstm.state.h._version, lstm.state.c._version)


@pytest.mark.parametrize(("shape", "options"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("layers", [1, 2])
def test_what_does_not_fit_is_refused_as_ever_and_nothing_moves(spy, shape, options, layers):
    assert_refused_alike(spy, filled(num_layers=layers), noise(*shape), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_an_input_of_another_dtype_is_refused_as_ever(spy, dtype):
    assert_refused_alike(spy, filled(), noise(1, 4, 3).to(dtype))


@pytest.mark.parametrize("x", [None, [[[1.0] * 3] * 4], noise(1, 4, 3).numpy()], ids=type)
def test_what_is_no_tensor_is_refused_as_ever(spy, x):
    assert_refused_alike(spy, filled(), x)


def test_a_weight_of_another_shape_is_refused_as_ever(spy):
    lstm = filled()
    lstm.weight_hh_l0.data = noise(20, 6)
    assert_refused_alike(spy, lstm, noise(1, 4, 3))


def test_a_missing_weight_is_refused_as_ever(spy):
    lstm = filled()
    del lstm.weight_hh_l0
    assert_refused_alike(spy, lstm, noise(1, 4, 3))


def test_a_state_of_another_layer_is_refused_as_ever(spy):
    lstm, x = filled(), noise(1, 4, 3)
    for other in (make(hidden_size=6), make(num_layers=2), make(dtype=torch.float32)):
        assert_refused_alike(spy, lstm, x, state=other.new_state(4))
    assert_refused_alike(spy, lstm, x, state="state")


def test_the_c_function_refuses_other_arguments():
    with pytest.raises(TypeError, match="11 arguments"):
        operators.fastpath_inference(1, 2)
    with pytest.raises(TypeError, match="11 arguments"):
        operators.fastpath_inference(*[None] * 11)
