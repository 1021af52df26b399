"""On the device: nn.LSTM's numbers, in every type and at sizes that reach every kernel.

A result may be at most twice as far from nn.LSTM in float64 (on the CPU) as nn.LSTM itself is in
that type on that device.
"""

import pytest
import torch
from comparisons import module_results, results
from gpu_support import (
    BACKEND,
    DEVICE,
    Case,
    assert_right,
    cases,
    flat,
    inputs,
    modes,
    ours,
    precision,
    problem,
    pure,
    same,
    theirs,
    truth,
    weights_of,
)

import stateful_lstm

SIZES = [1, 7, 64, 128, 192, 256, 320, 512, 768, 1024, 2048]
# Every number of rows in a sequence; steps and pairs of them beside.
RUNS = [(33, B) for B in (1, 3, 16, 17, 64, 200)] + [
    *((1, B) for B in (1, 17, 200)),
    *((2, B) for B in (3, 16, 64)),
]
shapes = cases(*((T, B, H) for H in SIZES for T, B in RUNS))
configs = cases(
    *(
        (9, B, H, 19, layers, both, proj)
        for B, H in ((3, 7), (17, 64), (16, 200), (3, 640))
        for layers, both, proj in (
            (2, False, 0),
            (1, True, 0),
            (2, True, 0),
            (1, False, H // 2),
            (2, True, H // 3),
        )
    )
)


def check(case, mode, compute):
    """compute(lstm, x, hx) on the device, with gradients and without."""
    case.skip_if_too_large()
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode, stateful=False)
        found = results(lambda x, hx: compute(lstm, x, hx), x, hx, weights_of(lstm))
        with torch.no_grad():
            inferred = flat(compute(lstm, x, hx))
    assert all(t.device == DEVICE and t.dtype == x.dtype for t in found.values())
    assert_right(found, truth(case), case, mode)
    assert_right(inferred, truth(case), case, mode)


@modes
@shapes
def test_sizes(case, mode):
    check(case, mode, lambda lstm, x, hx: lstm(x, hx))


@modes
@configs
def test_configs(case, mode):
    check(case, mode, lambda lstm, x, hx: lstm(x, hx))


@modes
@cases((5, 3, 40), (5, 17, 200, 19, 2, True), (5, 3, 40, 19, 2, False, 24))
def test_the_pure_function(case, mode):
    check(case, mode, pure)


@modes
def test_batch_first_unbatched_and_without_hx(mode):
    case = Case(6, 4, 24)
    x, _ = inputs(case, mode)
    with precision(mode), torch.no_grad():
        lstm = ours(case, mode, stateful=False)
        expected = flat(lstm(x))
        for name, t in flat(pure(lstm, x.transpose(0, 1), None, batch_first=True)).items():
            found = t.transpose(0, 1) if name == "output" else t
            torch.testing.assert_close(found, expected[name])
        zeros = tuple(torch.zeros_like(s) for s in inputs(case, mode)[1])
        assert same(flat(lstm(x, zeros)), expected)
        one = flat(lstm(x[:, 0]))
        assert one["output"].shape == (6, 24) and one["h_n"].shape == (1, 24)
    exact = problem(case)[0]
    assert_right(expected, flat(exact(problem(case)[1])), case, mode)


@modes
@cases((1, 0, 8), (0, 3, 8))
def test_nothing_to_do(case, mode):
    """No rows, or no steps."""
    x, hx = inputs(case, mode)
    lstm = ours(case, mode)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y, (h, c) = lstm(x, hx)
        assert y.shape == (case.T, case.B, 8)
        assert torch.equal(h, hx[0]) and torch.equal(c, hx[1])


# ---- gradients in float64 ----------------------------------------------------------------------


def differentiable(case, **control):
    lstm = ours(case, "float64", stateful=False)
    leaves = [t.detach().requires_grad_() for t in (*lstm.parameters(),)]
    x, hx = inputs(case, "float64")
    start = [t.detach().requires_grad_() for t in (x, *hx)]
    settings = {"num_layers": case.layers, "bidirectional": case.both, "proj_size": case.proj}

    def run(x, h, c, *weights):
        y, (h, c) = stateful_lstm.lstm(
            x, (h, c), list(weights), backend=BACKEND, **settings, **control
        )
        return y, h, c

    return run, (*start, *leaves)


@pytest.mark.parametrize("controlled", [False, True], ids=["plain", "resets-and-lengths"])
@cases((3, 2, 4, 3), (3, 2, 3, 2, 2, True), (3, 2, 4, 3, 2, False, 2))
def test_gradcheck(case, controlled):
    reset = torch.tensor([[True, False], [False, False], [False, True]], device=DEVICE)
    lengths = torch.tensor([3, 1], device=DEVICE)
    control = {"reset_mask": reset, "lengths": lengths} if controlled else {}
    run, leaves = differentiable(case, **control)
    assert torch.autograd.gradcheck(run, leaves)


def test_gradgradcheck():
    run, leaves = differentiable(Case(2, 2, 2, 2))
    assert torch.autograd.gradgradcheck(run, leaves)


# ---- the same again ----------------------------------------------------------------------------


@modes
@cases((33, 16, 64), (33, 17, 256), (9, 64, 512), (9, 3, 40, 19, 2, True, 24), (1, 17, 320))
def test_bits_are_the_same_in_every_run(case, mode):
    case.skip_if_too_large()
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode, stateful=False)
        first = module_results(lstm, x, hx)
        for _ in range(3):
            assert same(module_results(lstm, x, hx), first)


@modes
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
@cases((33, 17, 64), (33, 3, 24, 19, 2, True), (17, 16, 320), (20, 3, 40, 19, 1, False, 24))
def test_recompute_changes_no_gradient(case, recompute, mode):
    check(case, mode, lambda lstm, x, hx: pure(lstm, x, hx, recompute=recompute))


def test_the_yardstick_can_fail():
    """A number that is wrong by more than nn.LSTM's rounding is seen."""
    case = Case(9, 3, 24)
    with precision("float32"):
        found = module_results(theirs(case, "float32"), *inputs(case, "float32"))
    assert_right(found, truth(case), case, "float32")
    found["output"] = found["output"] + 1e-4
    with pytest.raises(AssertionError, match="output"):
        assert_right(found, truth(case), case, "float32")
