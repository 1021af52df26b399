"""The short way of a step, past torch's dispatcher: the operator's results, or no effect at all.

`ops.quick_step` is what a call of at most 4 steps takes in inference. Every test asks two things:
whether it was taken, and whether the numbers are those of the long way, bit for bit.
"""

import copy
import gc
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch
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
from torch.utils._python_dispatch import TorchDispatchMode

from stateful_lstm import StatefulLSTM, ops

pytestmark = pytest.mark.skipif(
    ops._quick_step is None, reason="no library, or a torch without DLPack's exchange table"
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


class Spy:
    """Stands in for the C function, and remembers whether it did the work."""

    def __init__(self, monkeypatch):
        self.step, self.taken, self.monkeypatch = ops._quick_step, False, monkeypatch
        monkeypatch.setattr(ops, "_quick_step", self)

    def __call__(self, *args):
        out = self.step(*args)
        self.taken = out is not None
        return out

    def long_way(self, lstm, x, **options):
        """The same call without the short way."""
        with self.monkeypatch.context() as patch:
            patch.setattr(ops, "_quick_step", None)
            return lstm(x, **options)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


def filled(slots=4, **options):
    """A layer whose state holds something."""
    lstm = make(**options)
    state = lstm.allocate_state(slots)
    state.h.copy_(noise(*state.h.shape, seed=7) / 2)
    state.c.copy_(noise(*state.c.shape, seed=8))
    return lstm


def flat(results):
    y, (h_n, c_n) = results
    return {"y": y, "h_n": h_n, "c_n": c_n}


def assert_quick(spy, lstm, x, mode=torch.no_grad, **options):
    """The short way is taken, and y, h_n, c_n and the state have the long way's bits."""
    twin = copy.deepcopy(lstm)
    with mode():
        found, expected = flat(lstm(x, **options)), flat(spy.long_way(twin, x, **options))
    assert spy.taken
    for name in expected:
        assert same_bits(found[name], expected[name]), name
    assert same_bits(lstm.state.h, twin.state.h) and same_bits(lstm.state.c, twin.state.c)
    return found


def assert_long(spy, lstm, x, **options):
    """The short way is not taken, and the numbers are those of nn.LSTM."""
    start, same_x = lstm.state.read(), x.detach().clone()
    y, _ = lstm(x, **options)
    assert not spy.taken
    close(y, by_hand(lstm, same_x, start, options.get("reset_mask"))[0])
    return y


# ---- where it is taken ---------------------------------------------------------------------------

CONFIGS = {
    "one": {},
    "two_layers": {"num_layers": 2},
    "three_layers": {"num_layers": 3},
    "no_bias": {"bias": False, "num_layers": 2},
    "proj": {"proj_size": 3, "hidden_size": 9, "num_layers": 2},
    "batch_first": {"batch_first": True},
    "all": {"num_layers": 3, "proj_size": 2, "bias": False, "batch_first": True},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def shaped(config, steps, batch, dtype=torch.float64, inputs=3):
    x = noise(steps, batch, inputs, dtype=dtype)
    return x.transpose(0, 1).contiguous() if config.get("batch_first") else x


@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_few_steps_have_the_bits_of_the_operator(spy, config, dtype, steps, mode):
    assert_quick(spy, filled(dtype=dtype, **config), shaped(config, steps, 4, dtype), mode)


@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_step_of_two_directions_has_the_bits_of_the_operator(spy, config, dtype):
    lstm = filled(dtype=dtype, bidirectional=True, **config)
    assert_quick(spy, lstm, shaped(config, 1, 4, dtype))


@configs
@pytest.mark.parametrize("steps", [1, 3])
def test_a_few_steps_equal_the_formula(spy, config, steps):
    lstm = filled(**config)
    x, start = shaped(config, steps, 4), lstm.state.read()
    expected, (h, c) = plain(lstm)(x, start)
    found = flat(call(lstm, x))
    assert spy.taken
    for name, truth in {"y": expected, "h_n": h, "c_n": c}.items():
        close(found[name], truth)


@pytest.mark.parametrize("hidden", [1, 7, 33, 130])
@pytest.mark.parametrize("batch", [1, 50])
def test_sizes_that_fill_no_vector_and_several_threads(spy, hidden, batch):
    lstm = filled(slots=batch, hidden_size=hidden, num_layers=2, dtype=torch.float32)
    assert_quick(spy, lstm, noise(2, batch, 3, dtype=torch.float32))


INDICES = {
    "int64": torch.tensor([5, 0, 3]),
    "int32": torch.tensor([5, 0, 3], dtype=torch.int32),
    "padding": torch.tensor([-1, 2, -1]),
    "padding_int32": torch.tensor([1, -1, 4], dtype=torch.int32),
    "all_padding": torch.tensor([-1, -1, -1]),
    "strided": torch.tensor([[5, 0], [0, 0], [3, 0]])[:, 0],
    "strided_int32": torch.tensor([1, 9, 2, 9, -1, 9], dtype=torch.int32)[::2],
    "reading_on": torch.tensor([9, 9, 4, 1, 0, 9])[2:5],
}


@configs
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_slots_of_any_form(spy, config, indices):
    lstm = filled(slots=6, **config)
    before = lstm.state.read()
    found = assert_quick(spy, lstm, shaped(config, 2, 3), state_indices=indices)
    idle = [s for s in range(6) if s not in indices.tolist()]
    for new, old in zip((lstm.state.h, lstm.state.c), before, strict=True):
        assert same_bits(new[:, idle], old[:, idle])
    padding = indices < 0
    assert not found["h_n"][:, padding].any() and not found["c_n"][:, padding].any()


def test_one_row_has_a_slot_index_of_any_stride(spy):
    index = torch.tensor([2]).as_strided((1,), (100,))
    assert_quick(spy, filled(slots=6), noise(1, 1, 3), state_indices=index)
    assert_quick(spy, filled(slots=6), noise(1, 1, 3), state_indices=torch.tensor(2).expand(1))


MASKS = {
    "dense": lambda mask: mask,
    "transposed": lambda mask: mask.t().contiguous().t(),
    "strided": lambda mask: mask.repeat_interleave(2, 1)[:, ::2],
    "one_for_all_rows": lambda mask: mask[:, :1].expand(-1, mask.size(1)),
    "offset": lambda mask: torch.cat([~mask, mask])[mask.size(0) :],
}


@configs
@pytest.mark.parametrize("form", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("steps", [1, 4])
def test_reset_masks_of_any_form(spy, config, form, steps):
    x = shaped(config, steps, 4)
    mask = form(noise(*x.shape[:2], seed=3) > 0)
    lstm = filled(**config)
    lstm.state.h[:, 1] = float("nan")  # a reset selects, it does not multiply
    assert_quick(spy, lstm, x, reset_mask=mask)


def test_slots_and_resets_together(spy):
    lstm, mask = filled(slots=6, num_layers=2), noise(3, 3, seed=3) > 0
    indices = torch.tensor([4, -1, 0], dtype=torch.int32)
    assert_quick(spy, lstm, noise(3, 3, 3), reset_mask=mask, state_indices=indices)


INPUTS = {
    "every_other_row": noise(3, 8, 3)[:, ::2],
    "every_other_step": noise(6, 4, 3)[::2],
    "part_of_a_wider_one": noise(3, 4, 9)[..., 2:5],
    "transposed": noise(4, 3, 3).transpose(0, 1),
    "one_row_for_all": noise(3, 1, 3).expand(3, 4, 3),
    "one_step_for_all": noise(1, 4, 3).expand(3, 4, 3),
    "with_an_offset": noise(5, 4, 3)[2:],
    "overlapping_rows": noise(40).as_strided((3, 4, 3), (7, 2, 1)),
    "no_dense_form": noise(3, 3).unsqueeze(1).expand(3, 4, 3),
    "a_parameter": nn.Parameter(noise(3, 4, 3)),
    "made_in_inference": torch.inference_mode()(lambda: noise(3, 4, 3))(),
}


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_inputs_with_rows_at_any_distance(spy, x, batch_first):
    lstm = filled(num_layers=2, batch_first=batch_first)
    assert_quick(spy, lstm, x.transpose(0, 1) if batch_first else x)


def test_inputs_of_one_number_at_any_distance(spy):
    lstm = filled(input_size=1)
    for x in (noise(2, 4, 1), noise(2, 4, 6)[..., 3:4], noise(2, 4, 2)[..., ::2]):
        assert_quick(spy, lstm, x)


def test_another_state_than_the_resident_one(spy):
    lstm = filled()
    before, state, twin = snapshot(lstm.state), lstm.new_state(4), lstm.new_state(4)
    x = noise(2, 4, 3)
    with torch.no_grad():
        found, expected = lstm(x, state=state), spy.long_way(lstm, x, state=twin)
    assert spy.taken
    assert same_bits(found[0], expected[0]) and same_bits(state.c, twin.c)
    assert_unmoved(before, lstm.state)


def test_a_layer_without_a_state_of_its_own_steps_on_a_given_one(spy):
    lstm = make(stateful=False)
    state = lstm.new_state(4)
    call(lstm, noise(2, 4, 3), state=state)
    assert spy.taken and state.h.any() and lstm.state is None


def test_frozen_weights_and_training_mode_make_no_difference(spy):
    for lstm in (filled().requires_grad_(False), filled().train(), filled().eval()):
        assert_quick(spy, lstm, noise(1, 4, 3))


def test_dropout_in_evaluation_and_in_a_single_layer_is_none(spy):
    with pytest.warns(UserWarning, match="dropout option adds dropout"):
        single = filled(dropout=0.5)
    for lstm in (filled(dropout=0.5, num_layers=2).eval(), single):
        assert_quick(spy, lstm, noise(1, 4, 3))
    assert_quick(spy, filled(recurrent_dropout=0.5).eval(), noise(1, 4, 3))


def test_the_first_call_makes_the_state_and_the_second_is_quick(spy):
    lstm, oracle = make(), plain(make())
    first, second = noise(2, 2, 4, 3).unbind()
    y, hx = oracle(first)
    close(call(lstm, first)[0], y)
    assert not spy.taken
    close(call(lstm, second)[0], oracle(second, hx)[0])
    assert spy.taken


# ---- where it is not -----------------------------------------------------------------------------


class Seen(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


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
        expected, _ = spy.long_way(twin, x)
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


def test_a_function_transform_refuses_the_resident_state_as_ever(spy):
    lstm = filled()
    with refused(RuntimeError, "transforms", untouched=[lstm]), torch.no_grad():
        torch.func.vmap(lambda each: lstm(each)[0])(noise(5, 2, 4, 3))
    assert not spy.taken


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_not_while_tracing_which_then_records_the_operator(spy):
    lstm, x = filled(), noise(2, 4, 3)
    with torch.no_grad():
        traced = torch.jit.trace(lstm, x, check_trace=False)
    assert not spy.taken
    assert "stateful_lstm::lstm_step_" in str(traced.inlined_graph)


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
        assert same_bits(y, spy.long_way(twin, x)[0])
    assert not same_bits(y, call(filled(**dropout).eval(), x)[0])


def test_not_with_five_steps(spy):
    with torch.no_grad():
        assert_long(spy, filled(), noise(5, 4, 3))


def test_not_with_several_steps_of_two_directions(spy):
    lstm, x = filled(bidirectional=True), noise(2, 4, 3)
    h, c = lstm.state.read()
    h[1], c[1] = 0, 0  # where the reverse direction starts
    y = call(lstm, x)[0]
    assert not spy.taken
    close(y, plain(lstm)(x, (h, c))[0])


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


@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"proj_size": 2}])
@pytest.mark.parametrize("lengths", [[2, 1, 0, 2], [0, 0, 0, 0], [2, 2, 2, 2]], ids=str)
@pytest.mark.parametrize("way", ["quick", "operator"])
def test_lengths(spy, monkeypatch, config, lengths, way):
    lstm, x = filled(**config), noise(2, 4, 3)
    counts, start = torch.tensor(lengths), lstm.state.read()
    expected, ended = by_hand(lstm, x, start, lengths=counts)
    steps = torch.arange(2).view(2, 1) >= counts
    dirty = x.masked_fill(steps.unsqueeze(2), float("nan"))
    if way == "operator":
        monkeypatch.setattr(ops, "_quick_step", None)
    y, hc = call(lstm, dirty, lengths=counts)
    assert spy.taken == (way == "quick")
    close(y, expected)
    for found, truth, state in zip(hc, ended, (lstm.state.h, lstm.state.c), strict=True):
        close(found, truth)
        assert same_bits(found, state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_ended_hands_out_its_state_rounded_to_the_layer_s_type(spy, dtype):
    lstm, x = filled(dtype=dtype), noise(1, 4, 3, dtype=dtype)
    _, (h_n, c_n) = call(lstm, x, lengths=torch.tensor([0, 1, 0, 1]))
    assert spy.taken
    assert same_bits(h_n, lstm.state.h) and same_bits(c_n, lstm.state.c.to(dtype))


def test_lengths_beside_slots(spy):
    lstm, x = filled(num_layers=2), noise(2, 3, 3)
    start = lstm.state.read()
    slots, lengths = torch.tensor([3, -1, 0]), torch.tensor([0, 2, 1])
    y, (h_n, c_n) = call(lstm, x, state_indices=slots, lengths=lengths)
    assert spy.taken
    assert not y[:, 1].any() and not h_n[:, 1].any() and not c_n[:, 1].any()
    assert same_bits(h_n[:, 0], start[0][:, 3]) and same_bits(lstm.state.c[:, 3], start[1][:, 3])
    assert same_bits(h_n[:, 2], lstm.state.h[:, 0]) and not same_bits(h_n[:, 2], start[0][:, 0])
    assert same_bits(lstm.state.h[:, 1], start[0][:, 1])


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
    for way in (lstm, lambda x, **options: spy.long_way(lstm, x, **options)):
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
    with pytest.raises(TypeError, match="12 arguments"):
        ops._quick_step(1, 2)
    with pytest.raises(TypeError, match="12 arguments"):
        ops._quick_step(*[None] * 12)


# ---- what comes out ------------------------------------------------------------------------------


def test_outputs_share_no_memory(spy):
    lstm, x = filled(num_layers=2), noise(2, 4, 3)
    outs = flat(call(lstm, x))
    assert spy.taken
    everything = [*outs.values(), lstm.state.h, lstm.state.c, x, *lstm.parameters()]
    kept = [t.detach().clone() for t in everything]
    for k, out in enumerate(outs.values()):
        out.fill_(9)
        for n, (t, was) in enumerate(zip(everything, kept, strict=True)):
            assert n <= k or same_bits(t, was)
    later, expected = call(lstm, x), filled(num_layers=2)
    call(expected, x)
    assert same_bits(later[0], call(expected, x)[0])
    assert all((out == 9).all() for out in outs.values())


def test_outputs_outlive_the_module_and_its_input(spy):
    lstm, x = filled(), noise(2, 4, 3)
    outs = list(flat(call(lstm, x)).values())
    kept = [out.clone() for out in outs]
    part = outs[0][1, 2:]
    del lstm, x
    gc.collect()
    litter = [torch.full((2, 4, 5), 9.0, dtype=torch.float64) for _ in range(50)]
    assert all(same_bits(*pair) for pair in zip(outs, kept, strict=True))
    del outs, litter
    gc.collect()
    assert same_bits(part, kept[0][1, 2:])


def test_the_memory_of_outputs_is_given_back():
    # What would leak is 6 MB a call.
    lstm = filled(slots=2000, hidden_size=128, dtype=torch.float32)
    x = noise(4, 2000, 3, dtype=torch.float32)
    for _ in range(3):
        call(lstm, x)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    for _ in range(8):
        call(lstm, x)
    assert resident() - before < 30e6


def test_outputs_are_dense_tensors_like_any_other(spy):
    y, (h_n, c_n) = call(filled(batch_first=True), noise(4, 2, 3))
    assert spy.taken
    for out in (y, h_n, c_n):
        assert type(out) is torch.Tensor and out.is_contiguous() and out.storage_offset() == 0
        assert out.untyped_storage().nbytes() == out.numel() * 8
        assert out.data_ptr() % 64 == 0


def test_outputs_can_be_pickled_saved_shared_and_viewed(spy):
    y, (h_n, c_n) = call(filled(), noise(2, 4, 3))
    assert spy.taken
    assert same_bits(pickle.loads(pickle.dumps(y)), y)
    assert same_bits(copy.deepcopy(h_n), h_n)
    file = io.BytesIO()
    torch.save({"y": y, "c_n": c_n}, file)
    file.seek(0)
    assert same_bits(torch.load(file)["c_n"], c_n)
    kept = y.clone()
    assert y.share_memory_().is_shared() and same_bits(y, kept)
    assert same_bits(torch.from_dlpack(h_n), h_n)
    assert torch.from_numpy(c_n.numpy()).equal(c_n)


def test_outputs_take_part_in_graphs(spy):
    y, _ = call(filled(), noise(2, 4, 3))
    assert spy.taken and not y.requires_grad and y.grad_fn is None
    (y.requires_grad_() * 2).sum().backward()
    assert (y.grad == 2).all()


def test_outputs_belong_to_the_mode_of_the_call(spy):
    lstm, x = filled(), noise(2, 4, 3)
    for _ in range(2):
        with torch.inference_mode():
            inside = flat(lstm(x)).values()
        assert spy.taken and all(out.is_inference() for out in inside)
        outside = flat(call(lstm, x)).values()
        assert spy.taken and not any(out.is_inference() for out in outside)
    assert not lstm.state.h.is_inference()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_call_counts_as_a_change_of_the_state(spy, mode):
    lstm, x = filled(), noise(1, 4, 3)
    for _ in range(3):
        before = lstm.state.h._version, lstm.state.c._version
        with mode():
            lstm(x)
        assert spy.taken
        assert lstm.state.h._version > before[0] and lstm.state.c._version > before[1]


def test_a_graph_that_saved_the_state_knows_that_it_has_changed(spy):
    lstm = filled()
    weight = noise(1, 4, 5).requires_grad_()
    uses = [(lstm.state.h * weight).sum(), (lstm.state.c * weight).sum()]
    call(lstm, noise(1, 4, 3))
    assert spy.taken
    for use in uses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            use.backward()


# ---- threads -------------------------------------------------------------------------------------


def in_threads(*works):
    """Runs them at the same time; an exception in one is raised here."""
    errors, ready = [], threading.Barrier(len(works))

    def guarded(work):
        try:
            ready.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def walk(lstm, state, x, ys):
    with torch.no_grad():
        for each in x:
            ys.append(lstm(each, state=state)[0])


def test_two_threads_with_states_of_their_own_do_not_meet():
    # Large enough that the work is done without Python's lock.
    lstm = make(input_size=128, hidden_size=128, dtype=torch.float32)
    inputs = [noise(200, 1, 1, 128, seed=seed, dtype=torch.float32) for seed in (1, 2)]
    alone, together = [[], []], [[], []]
    states = [lstm.new_state(1) for _ in range(4)]
    for k in (0, 1):
        walk(lstm, states[k], inputs[k], alone[k])
    in_threads(*(lambda k=k: walk(lstm, states[2 + k], inputs[k], together[k]) for k in (0, 1)))
    for k in (0, 1):
        assert same_bits(torch.stack(together[k]), torch.stack(alone[k]))
        assert same_bits(states[2 + k].c, states[k].c)


def test_a_weight_replaced_by_another_thread_is_held_until_the_step_is_done():
    lstm = make(input_size=128, hidden_size=128, dtype=torch.float32)
    x = noise(200, 1, 1, 128, dtype=torch.float32)
    alone, together, done = [], [], threading.Event()
    walk(lstm, lstm.new_state(1), x, alone)

    def replace():
        for _ in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
            lstm.weight_hh_l0 = nn.Parameter(lstm.weight_hh_l0.detach().clone())
            # Memory that was freed is taken and written over at once.
            torch.full((512, 128), float("nan"))

    def step():
        try:
            walk(lstm, lstm.new_state(1), x, together)
        finally:
            done.set()

    in_threads(replace, step)
    assert same_bits(torch.stack(together), torch.stack(alone))


def test_the_module_itself_may_be_of_a_derived_class(spy):
    class Mine(StatefulLSTM):
        pass

    torch.manual_seed(0)
    lstm = Mine(3, 5, dtype=torch.float64)
    lstm.allocate_state(4)
    call(lstm, noise(1, 4, 3))
    assert spy.taken
