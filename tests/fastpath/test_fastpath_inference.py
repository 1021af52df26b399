"""The fast path of inference: which calls take it, and their results.

A call without gradients on an allocated state takes `operators.fastpath_inference`, past torch's
dispatcher. Every test checks that the path is taken, and that the results have the bits of the
regular path.
"""

import copy

import pytest
import torch
from fastpath_support import DTYPES, assert_quick, configs, filled, flat, needs_fastpath, shaped
from state_support import (
    assert_unmoved,
    by_hand,
    call,
    close,
    make,
    noise,
    plain,
    same_bits,
    snapshot,
)
from torch import nn

import stateful_lstm
from stateful_lstm.backend import operators

pytestmark = needs_fastpath

# ---- where it is taken ---------------------------------------------------------------------------


@pytest.mark.sampled
@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 40])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_number_of_steps_has_the_bits_of_the_operator(spy, config, dtype, steps, mode):
    assert_quick(spy, filled(dtype=dtype, **config), shaped(config, steps, 4, dtype), mode)


@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 11])
def test_two_directions_have_the_bits_of_the_operator(spy, config, dtype, steps):
    lstm = filled(dtype=dtype, bidirectional=True, **config)
    assert_quick(spy, lstm, shaped(config, steps, 4, dtype))


@configs
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_the_results_equal_the_formula(spy, config, steps):
    lstm = filled(**config)
    x, start = shaped(config, steps, 4), lstm.state.read()
    expected, (h, c) = plain(lstm)(x, start)
    found = flat(call(lstm, x))
    assert spy.taken
    for name, truth in {"y": expected, "h_n": h, "c_n": c}.items():
        close(found[name], truth)


@pytest.mark.parametrize("hidden", [1, 7, 33, 130])
@pytest.mark.parametrize("batch", [1, 50])
@pytest.mark.parametrize("steps", [2, 6])
def test_sizes_that_fill_no_vector_and_several_threads(spy, hidden, batch, steps):
    lstm = filled(slots=batch, hidden_size=hidden, num_layers=2, dtype=torch.float32)
    assert_quick(spy, lstm, noise(steps, batch, 3, dtype=torch.float32))


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
@pytest.mark.parametrize("steps", [2, 6])
def test_slots_of_any_form(spy, config, indices, steps):
    lstm = filled(slots=6, **config)
    before = lstm.state.read()
    found = assert_quick(spy, lstm, shaped(config, steps, 3), state_indices=indices)
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
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_reset_masks_of_any_form(spy, config, form, steps):
    x = shaped(config, steps, 4)
    mask = form(noise(*x.shape[:2], seed=3) > 0)
    lstm = filled(**config)
    lstm.state.h[:, 1] = float("nan")  # a reset selects, it does not multiply
    assert_quick(spy, lstm, x, reset_mask=mask)


@pytest.mark.parametrize("steps", [3, 7])
def test_slots_and_resets_together(spy, steps):
    lstm, mask = filled(slots=6, num_layers=2), noise(steps, 3, seed=3) > 0
    indices = torch.tensor([4, -1, 0], dtype=torch.int32)
    assert_quick(spy, lstm, noise(steps, 3, 3), reset_mask=mask, state_indices=indices)


INPUTS = {
    "every_other_row": lambda steps: noise(steps, 8, 3)[:, ::2],
    "every_other_step": lambda steps: noise(2 * steps, 4, 3)[::2],
    "part_of_a_wider_one": lambda steps: noise(steps, 4, 9)[..., 2:5],
    "transposed": lambda steps: noise(4, steps, 3).transpose(0, 1),
    "one_row_for_all": lambda steps: noise(steps, 1, 3).expand(steps, 4, 3),
    "one_step_for_all": lambda steps: noise(1, 4, 3).expand(steps, 4, 3),
    "with_an_offset": lambda steps: noise(steps + 2, 4, 3)[2:],
    "overlapping_rows": lambda steps: noise(80).as_strided((steps, 4, 3), (7, 2, 1)),
    "no_dense_form": lambda steps: noise(steps, 3).unsqueeze(1).expand(steps, 4, 3),
    "a_parameter": lambda steps: nn.Parameter(noise(steps, 4, 3)),
    "made_in_inference": torch.inference_mode()(lambda steps: noise(steps, 4, 3)),
}


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("steps", [3, 6])
def test_inputs_with_rows_at_any_distance(spy, x, batch_first, steps):
    lstm = filled(num_layers=2, batch_first=batch_first)
    assert_quick(spy, lstm, x(steps).transpose(0, 1) if batch_first else x(steps))


def test_inputs_of_one_number_at_any_distance(spy):
    lstm = filled(input_size=1)
    for x in (noise(2, 4, 1), noise(2, 4, 6)[..., 3:4], noise(7, 4, 2)[..., ::2]):
        assert_quick(spy, lstm, x)


def test_another_state_than_the_resident_one(spy):
    lstm = filled()
    before, state, twin = snapshot(lstm.state), lstm.new_state(4), lstm.new_state(4)
    x = noise(2, 4, 3)
    with torch.no_grad():
        found, expected = lstm(x, state=state), spy.regular_path(lstm, x, state=twin)
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


@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sequence_has_the_bits_of_the_pure_function(spy, config, dtype):
    lstm, x = filled(dtype=dtype, **config), shaped(config, 11, 4, dtype)
    start = lstm.state.read()
    found = flat(call(lstm, x))
    assert spy.taken
    with torch.no_grad():
        own = {
            name: getattr(lstm, name) for name in ("num_layers", "bias", "batch_first", "proj_size")
        }
        y, (h, c) = stateful_lstm.lstm(x, start, list(lstm.parameters()), **own)
    assert same_bits(found["y"], y) and same_bits(found["h_n"], h)
    assert same_bits(found["c_n"], c.to(dtype)) and same_bits(lstm.state.h, h)


@configs
@pytest.mark.parametrize("steps", [1, 2, 11])
@pytest.mark.parametrize("extra", ["plain", "resets", "lengths", "slots", "all"])
def test_two_directions_equal_the_way_with_gradients(spy, config, steps, extra):
    """Another road altogether: the layers of autograd, the reverse direction from zero."""
    B, slots = 4, 6
    everything = {
        "reset_mask": noise(*shaped(config, steps, B).shape[:2], seed=3) > 0,
        "lengths": torch.tensor([steps, 0, (steps + 1) // 2, 1]),
        "state_indices": torch.tensor([5, 0, -1, 2]),
    }
    names = {"resets": ["reset_mask"], "slots": ["state_indices"], "all": list(everything)}
    options = {name: everything[name] for name in names.get(extra, [extra]) if extra != "plain"}
    lstm = filled(slots if "state_indices" in options else B, bidirectional=True, **config)
    lstm.state.h[1::2] = 9  # what the reverse direction left behind is not read
    twin, x = copy.deepcopy(lstm), shaped(config, steps, B)
    found = flat(call(lstm, x, **options))
    assert spy.taken
    expected = flat(twin(x.requires_grad_(), **options))
    assert expected["y"].requires_grad
    for name, truth in expected.items():
        close(found[name], truth)
    close(lstm.state.h, twin.state.h)
    close(lstm.state.c, twin.state.c)


# ---- lengths -------------------------------------------------------------------------------------


@pytest.mark.sampled
@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"proj_size": 2}])
@pytest.mark.parametrize("lengths", [[2, 1, 0, 2], [0, 0, 0, 0], [2, 2, 2, 2]], ids=str)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", ["quick", "operator"])
def test_lengths(spy, monkeypatch, config, lengths, times, way):
    lstm, x = filled(**config), noise(2 * times, 4, 3)
    counts, start = times * torch.tensor(lengths), lstm.state.read()
    expected, ended = by_hand(lstm, x, start, lengths=counts)
    steps = torch.arange(2 * times).view(-1, 1) >= counts
    dirty = x.masked_fill(steps.unsqueeze(2), float("nan"))
    if way == "operator":
        monkeypatch.setattr(operators, "fastpath_inference", None)
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


@pytest.mark.parametrize("steps", [2, 9])
def test_lengths_beside_slots(spy, steps):
    lstm, x = filled(num_layers=2), noise(steps, 3, 3)
    start = lstm.state.read()
    slots, lengths = torch.tensor([3, -1, 0]), torch.tensor([0, 2, 1])
    y, (h_n, c_n) = call(lstm, x, state_indices=slots, lengths=lengths)
    assert spy.taken
    assert not y[:, 1].any() and not h_n[:, 1].any() and not c_n[:, 1].any()
    assert same_bits(h_n[:, 0], start[0][:, 3]) and same_bits(lstm.state.c[:, 3], start[1][:, 3])
    assert same_bits(h_n[:, 2], lstm.state.h[:, 0]) and not same_bits(h_n[:, 2], start[0][:, 0])
    assert same_bits(lstm.state.h[:, 1], start[0][:, 1])
