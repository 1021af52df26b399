"""The dtypes that a call takes and returns, compared with nn.LSTM case by case."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext

import pytest
import torch
from state_support import noise, plain, refused
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from stateful_lstm import StatefulLSTM, lstm, reference

T, B, INPUT, H, PROJ = 5, 2, 3, 4, 2
FLOAT32, FLOAT64 = torch.float32, torch.float64
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (FLOAT32, FLOAT64, *HALVES)
GIVEN = (None, *itertools.product(DTYPES, DTYPES))  # of h_0 and c_0
AUTOCAST = (None, *HALVES)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous"),
]
each_own = pytest.mark.parametrize("own", DTYPES, ids=str)
each_route = pytest.mark.parametrize(
    ("packed", "proj_size"), [(False, 0), (False, PROJ), (True, 0), (True, PROJ)]
)


def autocast(half):
    return torch.autocast("cpu", half) if half else nullcontext()


def by_steps(run, given, proj_size):
    """nn.LSTM's own loop over steps: c stays as wide as it came, h is a product or follows c."""
    c = torch.promote_types(run, given)
    return (run, run, c) if proj_size else (c, c, c)


def rule(own, dtype, hx, half, packed, proj_size):
    """The dtypes of y, h_n and c_n, or None for a call that is refused."""
    h, c = hx or (dtype, dtype)
    if half is None:
        mixed = own != dtype or h != dtype
    else:  # autocast mixes all dtypes but float64
        mixed = len({t == FLOAT64 for t in (own, dtype, h)}) > 1
    if mixed or (c == FLOAT64 and dtype != FLOAT64):
        return None
    if half is None:
        return dtype, dtype, torch.promote_types(dtype, c)
    run = FLOAT64 if dtype == FLOAT64 else half
    return by_steps(run, c, proj_size) if packed or proj_size else (run, run, run)


def shapes(layer):
    states = layer.num_layers * (2 if layer.bidirectional else 1)
    return (states, B, layer.proj_size or H), (states, B, H)


def arguments(layer, dtype, hx, packed, steps=T):
    """Input and hx of one call, the same numbers in every dtype but for rounding."""
    x = noise(steps, B, INPUT, dtype=dtype)
    if packed:
        x = pack_padded_sequence(x, torch.tensor([steps, max(steps - 2, 1)]))
    if hx is None:
        return x, None
    given = zip((2, 3), shapes(layer), hx, strict=True)
    return x, tuple(noise(*shape, seed=seed, dtype=kind) for seed, shape, kind in given)


def dtypes(out):
    y, (h, c) = out
    return y.data.dtype, h.dtype, c.dtype


def answer(layer, *given):
    """The dtypes that come out, or None."""
    try:
        return dtypes(layer(*given))
    except (RuntimeError, ValueError):
        return None


@pytest.mark.sampled(most=4)
@each_own
@each_route
def test_the_whole_table(own, packed, proj_size):
    for layers, both in ((1, False), (2, True)):
        options = {"bidirectional": both, "proj_size": proj_size, "dtype": own}
        oracle = nn.LSTM(INPUT, H, layers, **options)
        for dtype, hx, half in itertools.product(DTYPES, GIVEN, AUTOCAST):
            case = own, dtype, hx, half, packed, proj_size
            expected = rule(*case)
            if hx and rule(own, dtype, None, half, packed, proj_size) is None:
                continue  # refused for its input alone
            given = arguments(oracle, dtype, hx, packed)
            for stateful in (False, True):
                layer = StatefulLSTM(INPUT, H, layers, stateful=stateful, **options)
                with torch.set_grad_enabled(stateful), autocast(half):
                    assert answer(layer, *given) == expected, case
                assert (layer.state is not None) == bool(stateful and expected)
            # nn.LSTM takes no more than we do, and not always that: float16 with oneDNN on most
            # processors, for one. Padded sequences without projection are oneDNN's under autocast;
            # where there is none, or it lacks the input's dtype, they go by steps.
            likely = {None, expected}
            if expected and half and dtype != FLOAT64 and not packed and not proj_size:
                likely.add(by_steps(half, hx[1] if hx else dtype, proj_size))
            with torch.no_grad(), autocast(half):
                assert answer(oracle, *given) in likely, case


@each_own
@pytest.mark.parametrize("proj_size", [0, PROJ])
def test_the_functions_follow_the_same_rule(own, proj_size):
    layer = StatefulLSTM(INPUT, H, proj_size=proj_size, dtype=own)
    options = {"proj_size": proj_size}

    def pure(x, hx):
        return lstm(x, hx, list(layer.parameters()), **options)

    def specified(x, hx):
        return reference.lstm(x, hx, list(layer.parameters()), **options)

    for dtype, hx, half in itertools.product(DTYPES, GIVEN, AUTOCAST):
        given = arguments(layer, dtype, hx, packed=False)
        expected = rule(own, dtype, hx, half, False, proj_size)
        with autocast(half):
            assert answer(pure, *given) == expected
        if half is None:
            assert answer(specified, *given) == expected


@each_own
@each_route
@pytest.mark.parametrize("grad", [False, True])
def test_calls_from_the_resident_state(own, packed, proj_size, grad):
    """As calls from the zeros that nn.LSTM makes; the state keeps its own dtypes."""
    for half, dtype, steps in itertools.product(AUTOCAST, DTYPES, (1, T)):
        expected = rule(own, dtype, None, half, packed, proj_size)
        if expected is None:
            continue
        layer = StatefulLSTM(INPUT, H, proj_size=proj_size, dtype=own)
        given = arguments(layer, dtype, None, packed, steps)
        for _ in range(3):
            with torch.set_grad_enabled(grad), autocast(half):
                assert dtypes(layer(*given)) == expected
            assert layer.state.h.dtype == own
            assert layer.state.c.dtype == (FLOAT32 if own in HALVES else own)


def taken(own, packed, proj_size):
    """Every call with hx that the rule takes."""
    for dtype, hx, half in itertools.product(DTYPES, GIVEN[1:], AUTOCAST):
        expected = rule(own, dtype, hx, half, packed, proj_size)
        if expected:
            yield dtype, hx, half, expected


@each_own
@each_route
@pytest.mark.parametrize("stateful", [False, True])
def test_c_that_nothing_changes_comes_out_as_it_went_in(own, packed, proj_size, stateful):
    """With open forget gates, closed input gates: to the last bit that the dtype of c_n has."""
    layer = StatefulLSTM(INPUT, H, proj_size=proj_size, dtype=own, stateful=stateful)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name != "weight_hr_l0":
                weight.zero_()
        layer.bias_ih_l0[:H] = -200
        layer.bias_ih_l0[H : 2 * H] = 200
    for dtype, hx, half, expected in taken(own, packed, proj_size):
        x, (h, c) = arguments(layer, dtype, hx, packed)
        with torch.no_grad(), autocast(half):
            _, (h_n, c_n) = layer(x, (h, c))
        assert torch.equal(c_n, c.to(expected[2]))
        if stateful:
            assert torch.equal(layer.state.c, c.to(layer.state.c.dtype))
        if not proj_size:  # half of tanh(c): rounded twice, to the dtype of the sums and to its own
            run = FLOAT64 if dtype == FLOAT64 else half or dtype
            tolerance = {"rtol": 2 * torch.finfo(run).eps, "atol": 0}
            torch.testing.assert_close(h_n.double(), c.double().tanh() / 2, **tolerance)


@pytest.mark.parametrize("own", [FLOAT32, *HALVES], ids=str)  # float64 is the truth itself
@each_route
def test_numbers_are_as_near_to_the_truth_as_those_of_nn_lstm(own, packed, proj_size):
    torch.manual_seed(0)
    layer = StatefulLSTM(
        INPUT, H, 2, bidirectional=True, proj_size=proj_size, dtype=own, stateful=False
    )
    theirs, truth = plain(layer), plain(copy.deepcopy(layer).double())
    for dtype, hx, half, expected in taken(own, packed, proj_size):
        x, hc = arguments(layer, dtype, hx, packed)
        with torch.no_grad():
            exact = flat(truth(x.to(FLOAT64), tuple(t.double() for t in hc)))
            with autocast(half):
                found = flat(layer(x, hc))
                try:
                    other = flat(theirs(x, hc))
                except RuntimeError:
                    continue
        # What both round first: x, the weights and h, to the dtype of the products.
        run = half or dtype
        for mine, its, true, kind in zip(found, other, exact, expected, strict=True):
            assert mine.dtype == kind
            floor = torch.finfo(run).eps * true.norm()
            assert distance(mine, true) <= 2 * distance(its, true) + floor


def flat(out):
    y, (h, c) = out
    return y.data, h, c


def distance(a, b):
    return (a.double() - b).norm()


@pytest.mark.parametrize("half", [None, *HALVES])
def test_a_float64_state_of_a_narrower_layer_is_refused_before_any_effect(half):
    layer = StatefulLSTM(INPUT, H)
    x = noise(T, B, INPUT, dtype=FLOAT32)
    layer(x)
    h, c = (torch.zeros(1, B, H) for _ in range(2))
    with autocast(half):
        for hx, name in (((h.double(), c), "hidden[0]"), ((h, c.double()), "hidden[1]")):
            words = name, "expected", "float32", "got torch.float64"
            with refused(RuntimeError, *words, untouched=[layer]):
                layer(x, hx)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_what_is_no_plain_floating_point_state_is_refused(kind, half):
    layer = StatefulLSTM(INPUT, H)
    state = torch.zeros(1, B, H)
    with autocast(half):
        for hx in ((state.to(kind), state), (state, state.to(kind))):
            with refused(RuntimeError, "expected hidden[", str(kind), untouched=[layer]):
                layer(noise(T, B, INPUT, dtype=FLOAT32), hx)


def test_gradients_come_in_the_dtypes_of_what_was_given():
    for own, kind in ((FLOAT32, HALVES[0]), (FLOAT64, FLOAT32), (HALVES[0], FLOAT32)):
        layer = StatefulLSTM(INPUT, H, dtype=own, stateful=False)
        x, hx = arguments(layer, own, (own, kind), packed=False)
        leaves = [t.requires_grad_() for t in (x, *hx)]
        y, (_, c_n) = layer(x, tuple(leaves[1:]))
        found = torch.autograd.grad(y.sum() + c_n.sum(), leaves)
        wide = [t.detach().double().requires_grad_() for t in leaves]
        y, (_, c_n) = copy.deepcopy(layer).double()(wide[0], tuple(wide[1:]))
        exact = torch.autograd.grad(y.sum() + c_n.sum(), wide)
        for grad, true, leaf in zip(found, exact, leaves, strict=True):
            assert grad.dtype == leaf.dtype
            eps = max(torch.finfo(t).eps for t in (own, kind))
            assert distance(grad, true) <= T * eps * true.norm()


def test_hx_may_be_a_list():
    layer = StatefulLSTM(INPUT, H, stateful=False)
    x, hx = arguments(layer, FLOAT32, (FLOAT32, FLOAT32), packed=False)
    torch.testing.assert_close(layer(x, list(hx)), layer(x, hx), rtol=0, atol=0)
    torch.testing.assert_close(layer(x, list(hx)), plain(layer)(x, list(hx)))
