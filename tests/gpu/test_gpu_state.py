"""The resident state on the device: pieces and whole, moves, and errors before effects."""

import copy

import pytest
import torch
from comparisons import results
from gpu_support import (
    DEVICE,
    ON_CPU,
    Case,
    assert_right,
    cases,
    flat,
    inputs,
    modes,
    needs_cuda,
    ours,
    precision,
    problem,
    run_apart,
    truth,
    weights_of,
)
from state_support import addresses, refused, same_bits

import stateful_lstm
from stateful_lstm import StatefulLSTM

OTHER = torch.device("meta" if ON_CPU else "cpu")

runs = cases(
    (33, 3, 7),
    (33, 16, 64, 19, 2),
    (33, 17, 192),
    (33, 1, 320),
    (17, 64, 512),
    (9, 17, 768),
    (12, 3, 40, 19, 2, False, 24),
)


@modes
@pytest.mark.parametrize("sizes", ["steps", "chunks"])
@pytest.mark.parametrize("grad", [False, True])
@runs
def test_pieces_equal_the_whole(case, sizes, grad, mode):
    """T = 1 streaming and chunks, on the state that the last call left."""
    case.skip_if_too_large()
    x, hx = inputs(case, mode)
    with precision(mode), torch.set_grad_enabled(grad):
        lstm = ours(case, mode)
        lstm.allocate_state(case.B).write(hx)
        where = addresses(lstm)
        pieces = [1] * case.T if sizes == "steps" else [1, 4, case.T - 5]
        found = [lstm(piece) for piece in x.split(pieces)]
    assert addresses(lstm) == where
    assert same_bits(lstm.state.h, found[-1][1][0])
    whole = flat((torch.cat([y for y, _ in found]), found[-1][1]))
    assert_right(whole, truth(case), case, mode)


@modes
@cases((1, 3, 24), (5, 17, 64, 19, 2), (1, 16, 320))
def test_a_call_without_gradients_steps_as_one_with_them(case, mode):
    case.skip_if_too_large()
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode)
        for grad in (False, True):
            lstm.allocate_state(case.B).write(hx)
            with torch.set_grad_enabled(grad):
                assert_right(flat(lstm(x)), truth(case), case, mode)


@modes
def test_training_goes_on_from_the_state_without_its_graph(mode):
    case = Case(8, 3, 24, layers=2)
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode)
        lstm.allocate_state(3).write(hx)
        lstm(x[:3])
        start = lstm.state.read()
        resident = results(lambda x, _: lstm(x), x[3:], None, weights_of(lstm))
        given = results(lambda x, _: lstm(x, start), x[3:], None, weights_of(lstm))
    for name, expected in given.items():
        # c_n has the dtype of the c_0 that was given, float32 here, and of h where none was.
        torch.testing.assert_close(resident[name], expected.to(resident[name].dtype))


# ---- moves -------------------------------------------------------------------------------------


def test_the_state_follows_the_layer():
    lstm = StatefulLSTM(5, 8, 2)
    assert lstm.allocate_state(3).h.device.type == "cpu"
    lstm.state.h.normal_()
    h, c = lstm.state.read()
    lstm.to(DEVICE)
    assert lstm.state.h.device == DEVICE and same_bits(lstm.state.h.cpu(), h)
    with torch.no_grad():
        lstm(torch.randn(4, 3, 5, device=DEVICE))
    moved = lstm.state.read()
    lstm.cpu()
    assert same_bits(lstm.state.h, moved[0].cpu()) and not same_bits(lstm.state.c, c)
    with torch.no_grad():
        lstm(torch.randn(4, 3, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_c_stays_in_float32_under_16_bits(dtype):
    lstm = StatefulLSTM(5, 8, device=DEVICE)
    lstm.allocate_state(3)
    lstm.state.c.normal_()
    c = lstm.state.c.clone()
    lstm.to(dtype)
    assert lstm.state.h.dtype == dtype and lstm.state.c.dtype == torch.float32
    assert same_bits(lstm.state.c, c)
    x = torch.randn(2, 3, 5, device=DEVICE, dtype=dtype)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y, (h_n, c_n) = lstm(x)
        assert y.dtype == h_n.dtype == c_n.dtype == dtype
        assert lstm.state.c.dtype == torch.float32
        assert same_bits(lstm.state.c.to(dtype), c_n)


def test_a_deep_copy_has_a_state_of_its_own():
    lstm = StatefulLSTM(5, 8, device=DEVICE)
    x = torch.randn(4, 3, 5, device=DEVICE)
    with torch.no_grad():
        lstm(x)
        twin = copy.deepcopy(lstm)
        before = lstm.state.read()
        after = twin(x)[0]
        assert twin.state.h.device == DEVICE
        assert all(same_bits(a, b) for a, b in zip(lstm.state.read(), before, strict=True))
        assert same_bits(lstm(x)[0], after)


def test_get_and_set_state_and_preserve_state():
    model = torch.nn.Sequential(StatefulLSTM(5, 8, device=DEVICE))
    x = torch.randn(4, 3, 5, device=DEVICE)
    with torch.no_grad():
        model(x)
        saved = stateful_lstm.get_state(model)
        with stateful_lstm.preserve_state(model):
            expected = model(x)[0]
        assert same_bits(model(x)[0], expected)
        stateful_lstm.set_state(model, saved)
        assert same_bits(model(x)[0], expected)


# ---- errors ------------------------------------------------------------------------------------


WRONG = {
    "x elsewhere": lambda x: (x.to(OTHER), {}),
    "x in another type": lambda x: (x.double(), {}),
    "x too wide": lambda x: (x.repeat(1, 1, 2), {}),
    "another number of rows": lambda x: (x[:, :2], {}),
    "hx elsewhere": lambda x: (x, {"hx": (zeros().to(OTHER), zeros())}),
    "hx in another type": lambda x: (x, {"hx": (zeros(), zeros().double())}),
    "reset_mask elsewhere": lambda x: (x, {"reset_mask": x[..., 0].bool().to(OTHER)}),
    "reset_mask of numbers": lambda x: (x, {"reset_mask": x[..., 0]}),
    "lengths of floats": lambda x: (x, {"lengths": numbers(0, 1, 1).float()}),
    "lengths on the CPU too long": lambda x: (x, {"lengths": numbers(0, 1, len(x) + 1).cpu()}),
    "state_indices elsewhere": lambda x: (x, {"state_indices": numbers(0, 1, 2).to(OTHER)}),
    "state_indices of floats": lambda x: (x, {"state_indices": numbers(0, 1, 2).float()}),
    "too few state_indices": lambda x: (x, {"state_indices": numbers(0, 1)}),
    "a state in another type": lambda x: (x, {"state": small().double().new_state(3)}),
    "a state of another size": lambda x: (x, {"state": small().new_state(2)}),
}
if OTHER.type != "meta":  # from where a state follows
    WRONG["a state elsewhere"] = lambda x: (
        x,
        {"state": StatefulLSTM(5, 8, device=OTHER).new_state(3)},
    )


def small():
    return StatefulLSTM(5, 8, device=DEVICE)


def zeros():
    return torch.zeros(1, 3, 8, device=DEVICE)


def numbers(*each):
    return torch.tensor(each, device=DEVICE)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_errors_come_before_effects(wrong, steps, grad):
    lstm = small()
    with torch.no_grad():
        lstm(torch.randn(4, 3, 5, device=DEVICE))
    x, keywords = wrong(torch.randn(steps, 3, 5, device=DEVICE))
    kinds = (ValueError, RuntimeError, TypeError, IndexError)
    with refused(kinds, untouched=[lstm]), torch.set_grad_enabled(grad):
        lstm(x, **keywords)


@needs_cuda
def test_a_backend_that_is_elsewhere_is_refused():
    weights = list(torch.nn.LSTM(5, 8).parameters())
    with pytest.raises(RuntimeError, match="cuda"):
        stateful_lstm.lstm(torch.randn(4, 3, 5), None, weights, backend="cuda")
    here = [w.detach().to(DEVICE) for w in weights]
    with pytest.raises(RuntimeError, match="cpu"):
        stateful_lstm.lstm(torch.randn(4, 3, 5, device=DEVICE), None, here, backend="cpu")


BAD_INDEX = """
import torch
from stateful_lstm import StatefulLSTM

def refused(lstm, x, rows):
    try:
        lstm(x, state_indices=rows)
    except (IndexError, ValueError) as error:
        print("raised:", error)
        return True
    return False

def moved(lstm, before, slots):
    pairs = zip(before, lstm.state.read())
    return any(not torch.equal(was[:, slots], now[:, slots]) for was, now in pairs)

def check(steps):
    lstm = StatefulLSTM(5, 8, device="cuda")
    lstm.allocate_state(4).h.fill_(1)
    x = torch.randn(steps, 3, 5, device="cuda")
    good, bad = (torch.tensor(rows, device="cuda") for rows in ([2, 0, -1], {bad}))
    assert not refused(lstm, x, good)
    before = lstm.state.read()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    at_once = refused(lstm, x, bad)  # allowed, as long as the host has not waited for the values
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert not moved(lstm, before, {unnamed}), "a slot that was not named has moved"
    if not at_once:
        before = lstm.state.read()
        assert refused(lstm, x, good), "the call after a bad slot says nothing"
        assert not moved(lstm, before, [0, 1, 2, 3]), "the call that raised has moved the state"
    assert not refused(lstm, x, good)
    assert lstm.state.h.isfinite().all()

for steps, grad in ((1, False), (1, True), (4, False), (4, True)):
    print("steps", steps, "gradients", grad, flush=True)
    with torch.set_grad_enabled(grad):
        check(steps)
"""


@needs_cuda
@pytest.mark.parametrize(
    ("bad", "unnamed"),
    [([1, 4, 2], [0, 3]), ([1, -2, 2], [0, 3]), ([3, 3, -1], [0, 1, 2])],
    ids=["too-large", "below-padding", "twice"],
)
def test_a_bad_slot_is_told_by_the_next_call(bad, unnamed):
    """In a new process: a device-side assertion would end all the tests."""
    out = run_apart(BAD_INDEX.format(bad=bad, unnamed=unnamed))
    assert out.count("raised:") == 4, out


@modes
def test_hx_wins_over_the_state_which_it_then_becomes(mode):
    case = Case(3, 2, 16)
    x, hx = inputs(case, mode)
    lstm = ours(case, mode)
    lstm.allocate_state(2).h.fill_(9)
    with precision(mode), torch.no_grad():
        found = flat(lstm(x, hx))
    assert_right(found, truth(case), case, mode)
    assert same_bits(lstm.state.h, found["h_n"])
    assert problem(case)[2][0].shape == lstm.state.h.shape
