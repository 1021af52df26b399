"""The fast path of sequences, past torch's dispatcher, forward and backward.

Every test checks whether the path is taken, and that results and gradients have the bits of the
regular path.
"""

import copy

import pytest
import torch
from fastpath_layer_support import LayerSpy, assert_same, needs_fastpath, trained
from fastpath_support import Seen
from state_support import close, make, noise, plain, refused, same_bits
from torch.autograd import forward_ad

from stateful_lstm.backend import operators, ranges

pytestmark = needs_fastpath
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture
def spy(monkeypatch):
    return LayerSpy(monkeypatch)


CONFIGS = {
    "one": {},
    "two_layers": {"num_layers": 2},
    "three_layers": {"num_layers": 3},
    "no_bias": {"bias": False, "num_layers": 2},
    "stateful": {"stateful": True, "num_layers": 2},
    "wide": {"input_size": 37, "hidden_size": 70},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 5), (7, 1), (6, 4), (3, 20)])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_has_the_bits_of_the_regular_path(spy, name, steps, rows, dtype):
    lstm = make(dtype=dtype, **{"stateful": False, **CONFIGS[name]})
    x = noise(steps, rows, lstm.input_size, dtype=dtype)
    twin = copy.deepcopy(lstm)
    for _ in range(2):
        found = trained(lstm, x)
        assert spy.taken() == (lstm.num_layers, lstm.num_layers)
        assert_same(found, spy.regular_path(lambda: trained(twin, x)))
        assert spy.taken() == (0, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", ["y", "h_n", "c_n"])
def test_a_loss_of_any_result_alone(spy, part, dtype):
    lstm, x = make(dtype=dtype, stateful=False), noise(4, 3, 3, dtype=dtype)
    hx = noise(1, 3, 5, seed=4, dtype=dtype), noise(1, 3, 5, seed=5, dtype=dtype)
    options = {} if dtype == torch.bfloat16 else {"hx": hx}  # whose c0 is in the dtype of sums
    found = trained(lstm, x, [part], **options)
    assert spy.taken() == (1, 1)
    assert_same(found, spy.regular_path(lambda: trained(lstm, x, [part], **options)))


def test_a_bfloat16_cell_state_takes_the_regular_path(spy):
    lstm, x = make(dtype=torch.bfloat16, stateful=False), noise(2, 3, 3, dtype=torch.bfloat16)
    hx = tuple(noise(1, 3, 5, seed=seed, dtype=torch.bfloat16) for seed in (4, 5))
    found = trained(lstm, x, hx=hx)
    assert spy.taken() == (0, 0)
    assert found["c0"].dtype == torch.bfloat16


def test_a_state_of_sums_dtype_takes_the_fastpath(spy):
    lstm, x = make(dtype=torch.bfloat16, stateful=False), noise(2, 3, 3, dtype=torch.bfloat16)
    hx = noise(1, 3, 5, seed=4, dtype=torch.bfloat16), noise(1, 3, 5, seed=5, dtype=torch.float32)
    found = trained(lstm, x, hx=hx)
    assert spy.taken() == (1, 1)
    assert found["h0"].dtype == torch.bfloat16 and found["c0"].dtype == torch.float32
    assert_same(found, spy.regular_path(lambda: trained(lstm, x, hx=hx)))


@pytest.mark.parametrize("layers", [1, 2])
def test_resets_and_initial_states(spy, layers):
    lstm, x = make(num_layers=layers, stateful=False), noise(5, 4, 3)
    options = {
        "hx": (noise(layers, 4, 5, seed=4), noise(layers, 4, 5, seed=5)),
        "reset_mask": torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) < 0.4,
    }
    found = trained(lstm, x, **options)
    assert spy.taken() == (layers, layers)
    assert_same(found, spy.regular_path(lambda: trained(lstm, x, **options)))
    assert not options["reset_mask"].all() and options["reset_mask"].any()


def test_windows_of_a_stream(spy):
    lstm, twin = (make(stateful=True, num_layers=2) for _ in range(2))
    for window in range(3):
        x = noise(4, 3, 3, seed=window)
        expected = spy.regular_path(lambda x=x: trained(twin, x))
        spy.taken()
        assert_same(trained(lstm, x), expected)
        assert spy.taken() == (2, 2)


def test_it_is_nn_lstm(spy):
    lstm, x = make(stateful=False, num_layers=2, hidden_size=9), noise(6, 4, 3)
    parallel = plain(lstm)
    y, (h_n, c_n) = lstm(x)
    expected, (h, c) = parallel(x)
    assert spy.taken() == (2, 0)
    close((y, h_n, c_n), (expected, h, c))
    (y.square().mean() + h_n.mean()).backward()
    (expected.square().mean() + h.mean()).backward()
    assert spy.taken() == (0, 2)
    for name, p in parallel.named_parameters():
        close(getattr(lstm, name).grad, p.grad)


FROZEN = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", range(16))
def test_only_gradients_that_are_wanted(spy, which, dtype):
    lstm, x = make(dtype=dtype, stateful=False), noise(4, 3, 3, dtype=dtype)
    for k, name in enumerate(FROZEN):
        getattr(lstm, name).requires_grad_(which >> k & 1 == 1)
    found = trained(lstm, x)
    assert spy.taken() == (1, 1)
    assert [found[name] is not None for name in FROZEN] == [which >> k & 1 == 1 for k in range(4)]
    assert_same(found, spy.regular_path(lambda: trained(lstm, x)))


def test_each_bias_has_a_gradient_of_its_own(spy):
    lstm = make(stateful=False)
    lstm(noise(2, 3, 3))[0].square().mean().backward()
    assert same_bits(lstm.bias_ih_l0.grad, lstm.bias_hh_l0.grad)
    lstm.bias_ih_l0.grad.zero_()
    assert lstm.bias_hh_l0.grad.any()


# ---- without gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (7, 1), (6, 4)])
@pytest.mark.parametrize("name", ["one", "two_layers", "no_bias", "wide"])
def test_inference_has_the_bits_of_the_regular_path(spy, name, steps, rows, dtype):
    lstm = make(dtype=dtype, **{"stateful": False, **CONFIGS[name]})
    x = noise(steps, rows, lstm.input_size, dtype=dtype)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y, (h_n, c_n) = lstm(x)
            expected, (h, c) = spy.regular_path(lambda: lstm(x))
        assert spy.taken() == (lstm.num_layers, 0)
        assert same_bits(y, expected) and same_bits(h_n, h) and same_bits(c_n, c)
        assert not y.requires_grad and y.is_inference() == (mode is torch.inference_mode)


def test_frozen_layers_make_no_graph(spy):
    lstm = make(stateful=False).requires_grad_(False)
    y, _ = lstm(noise(2, 3, 3))
    assert spy.taken() == (1, 0) and y.grad_fn is None
    y, _ = lstm(noise(2, 3, 3).requires_grad_())
    assert spy.taken() == (1, 0) and y.grad_fn is not None


# ---- where it is not taken -----------------------------------------------------------------------

OTHERS = {
    "both directions": ({"bidirectional": True}, {}),
    "a projection": ({"proj_size": 2}, {}),
    "dropout": ({"num_layers": 2, "dropout": 0.5}, {}),
    "recurrent dropout": ({"recurrent_dropout": 0.5}, {}),
    "recomputed gates": ({"recompute": "gates"}, {}),
    "segments": ({"recompute": "segments"}, {}),
    "lengths": ({}, {"lengths": torch.tensor([1, 4, 0])}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_unusual_takes_the_regular_path(spy, name):
    options, call = OTHERS[name]
    lstm, x = make(stateful=False, **options), noise(4, 3, 3)
    torch.manual_seed(3)
    found = trained(lstm, x, **call)
    assert spy.taken() == (0, 0)
    torch.manual_seed(3)
    assert_same(found, spy.regular_path(lambda: trained(lstm, x, **call)))


def test_dropout_that_rests_is_none(spy):
    lstm = make(stateful=False, num_layers=2, dropout=0.5, recurrent_dropout=0.5).eval()
    trained(lstm, noise(4, 3, 3))
    assert spy.taken() == (2, 2)


def test_many_rows_take_the_regular_path(spy):
    lstm = make(stateful=False)
    for rows, short in ((ranges.RANGE_ROWS // 4, 1), (ranges.RANGE_ROWS // 4 + 1, 0)):
        trained(lstm, noise(4, rows, 3))
        assert spy.taken() == (short, short)


class Subclass(torch.Tensor):
    pass


def test_other_kinds_of_tensors_take_the_regular_path(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    y = lstm(x.as_subclass(Subclass))[0]
    assert spy.taken() == (0, 0)
    close(y.as_subclass(torch.Tensor), lstm(x)[0])


def test_numbers_meant_negative_take_the_regular_path(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    negative = torch._neg_view(x)
    assert negative.is_neg() and negative.is_contiguous()
    y = lstm(negative)[0]
    assert spy.taken() == (0, 0)
    close(y, lstm(-x)[0])
    spy.taken()
    grad = torch._neg_view(torch.ones_like(y))
    (found,) = torch.autograd.grad(y, lstm.weight_ih_l0, grad, retain_graph=True)
    (expected,) = torch.autograd.grad(lstm(-x)[0], lstm.weight_ih_l0, -torch.ones_like(y))
    close(found, expected)
    y = lstm(-x)[0]
    spy.taken()
    (found,) = torch.autograd.grad(y, lstm.weight_ih_l0, grad)
    assert spy.taken() == (0, 0)
    close(found, expected)


def test_dispatch_modes_see_the_operators(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    with Seen() as seen:
        y = lstm(x)[0]
    assert spy.taken() == (0, 0) and "stateful_lstm.lstm_forward.default" in seen.names
    y.square().mean().backward()
    y = lstm(x)[0]
    spy.taken()
    with Seen() as seen:
        y.square().mean().backward()
    assert spy.taken() == (0, 0) and "stateful_lstm.lstm_gradients.default" in seen.names


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch 2.11, of itself
def test_the_profiler_sees_the_operators(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    with torch.profiler.profile() as profile:
        lstm(x)[0].square().mean().backward()
    names = {event.name for event in profile.events()}
    assert {"stateful_lstm::lstm_forward", "stateful_lstm::lstm_gradients"} <= names
    assert spy.taken() == (0, 0)


def test_transforms_and_forward_mode_take_the_regular_path(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    torch.func.grad(lambda x: lstm(x)[0].sum())(x)
    with forward_ad.dual_level():
        lstm(forward_ad.make_dual(x, noise(2, 3, 3, seed=2)))
    assert spy.taken() == (0, 0)


def test_autocast_goes_the_short_way_in_bfloat16(spy):
    lstm, x = make(stateful=False, dtype=torch.float32), noise(2, 3, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = lstm(x)[0]
    assert spy.taken() == (1, 0) and y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert spy.taken() == (0, 1) and lstm.weight_hh_l0.grad.dtype == torch.float32


def test_a_call_within_backward_is_like_any_other(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    weight, expected = noise(1, seed=3).requires_grad_(), trained(lstm, x)
    spy.taken()

    def call_it(grad):
        with torch.enable_grad():
            assert_same(trained(lstm, x), expected)
        return grad

    product = weight * 2
    product.register_hook(call_it)
    product.sum().backward()
    assert spy.taken() == (1, 1)


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_refused_as_ever(spy):
    lstm = make(stateful=True)
    trained(lstm, noise(2, 3, 3))
    spy.taken()
    with refused(RuntimeError, "input_size", "3", "4", untouched=[lstm]):
        lstm(noise(2, 3, 4))
    with refused(ValueError, "dtype", untouched=[lstm]):
        lstm(noise(2, 3, 3, dtype=torch.float32))
    with refused(ValueError, "reset_mask", "(2, 3)", untouched=[lstm]):
        lstm(noise(2, 3, 3), reset_mask=torch.zeros(3, 3, dtype=torch.bool))
    with refused(RuntimeError, "hidden[0]", untouched=[lstm]):
        lstm(noise(2, 3, 3), (noise(1, 3, 4), noise(1, 3, 5)))
    assert spy.taken() == (0, 0)


def test_an_nan_state_is_gone_after_a_reset(spy):
    lstm = make(stateful=False)
    hx = tuple(torch.full((1, 2, 5), float("nan"), dtype=torch.float64) for _ in range(2))
    reset = torch.tensor([[True, True], [False, False]])
    found = trained(lstm, noise(2, 2, 3), hx=hx, reset_mask=reset)
    assert spy.taken() == (1, 1)
    assert all(value.isfinite().all() for value in found.values())


def plain_arguments():
    lstm, x = make(stateful=False), noise(2, 3, 3)
    state = noise(3, 5), noise(3, 5, seed=2)
    weights = [p.detach() for p in lstm.parameters()]
    return [x, *weights, *state, None, True]


WANTED = (*[True] * 5, False, True, True)  # all but weight_hr, which is absent


def saved_of(args, made):
    y, _, _, gates, cells = made
    return (*args[:8], y, gates, cells)


def test_the_functions_take_what_they_say():
    args = plain_arguments()
    made = operators.fastpath_forward(*args)
    saved, wanted = saved_of(args, made), WANTED
    grads = operators.fastpath_gradients(torch.ones_like(made[0]), None, None, *saved, wanted)
    assert grads[5] is None  # of weight_hr
    assert [g.shape for g in grads[:5] + grads[6:]] == [t.shape for t in args[:7]]
    with pytest.raises(TypeError, match="9 arguments"):
        operators.fastpath_forward(*args[:-1])
    for wrong in ((), (1, 2, 3, 4, 5), (None,) * 14 + (5,), (None,) * 3 + (*saved, wanted[1:])):
        with pytest.raises(TypeError, match="15 arguments"):
            operators.fastpath_gradients(*wrong)


@pytest.mark.parametrize("place", range(8))
def test_whatever_does_not_fit_has_no_effect(place):
    good = plain_arguments()
    good[7] = torch.zeros(2, 3, dtype=torch.bool)
    assert operators.fastpath_forward(*good) is not None
    tensor = good[place]
    longer = torch.cat([tensor, tensor[:1]])
    wrongs = [3, "x", tensor.to(torch.int32), tensor.to("meta"), longer, tensor[..., :0]]
    wrongs += [longer[::2], tensor.unsqueeze(0), torch.tensor(1.0)]
    if place not in (3, 4, 7):
        wrongs.append(None)
    for wrong in wrongs:
        args = list(good)
        args[place] = wrong
        assert operators.fastpath_forward(*args) is None


@pytest.mark.parametrize("place", [0, 1, 2, 5, 6, 7, 8, 9, 10])
def test_gradients_of_what_does_not_fit(place):
    args = plain_arguments()
    args[7] = torch.zeros(2, 3, dtype=torch.bool)
    made = operators.fastpath_forward(*args)
    good = saved_of(args, made)
    grad, wanted = torch.ones_like(made[0]), WANTED
    assert operators.fastpath_gradients(grad, None, None, *good, wanted) is not None
    assert operators.fastpath_gradients(None, None, None, *good, wanted) is None
    assert operators.fastpath_gradients(grad[:1], None, None, *good, wanted) is None
    tensor = good[place]
    wrongs = [3, tensor.to(torch.int32), torch.cat([tensor, tensor[:1]]), tensor[..., :0]]
    for wrong in wrongs:
        saved = list(good)
        saved[place] = wrong
        assert operators.fastpath_gradients(grad, None, None, *saved, wanted) is None
