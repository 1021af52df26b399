"""Resets, lengths and slots on the device, one by one and all at once, against the reference."""

import pytest
import torch
from comparisons import results, settings
from gpu_support import (
    DEVICE,
    Case,
    assert_right,
    backward,
    cases,
    flat,
    inputs,
    modes,
    ours,
    precision,
    problem,
    pure,
    same,
    weights_of,
)
from state_support import same_bits

from stateful_lstm import reference

kernels = cases(
    (9, 3, 7, 19, 2, True),
    (9, 17, 64),
    (9, 3, 192),
    (9, 17, 320, 19, 2),
    (5, 3, 640),
    (5, 17, 768),
    (9, 3, 40, 19, 2, True, 24),
    (1, 17, 128, 19, 2),
)
CONTROLS = {
    "resets": ("some", None),
    "reset-everywhere": ("all", None),
    "lengths": (None, "some"),
    "lengths-of-0": (None, "none"),
    "lengths-of-T": (None, "all"),
    "both": ("some", "some"),
}
controls = pytest.mark.parametrize(("resets", "ends"), CONTROLS.values(), ids=CONTROLS)


def mask(case, kind):
    generator = torch.Generator().manual_seed(5)
    some = torch.rand(case.T, case.B, generator=generator) < 0.3
    return {None: None, "some": some, "all": torch.ones_like(some)}[kind]


def lengths_of(case, kind):
    """Among "some" are 0 and T, if there are rows enough."""
    some = torch.arange(case.B) * 7 % (case.T + 1)
    some[0] = case.T
    whole = torch.full((case.B,), case.T)
    return {None: None, "some": some, "none": torch.zeros_like(some), "all": whole}[kind]


def placed(control, device):
    return {name: t.to(device) for name, t in control.items() if t is not None}


@modes
@controls
@kernels
def test_resets_and_lengths(case, resets, ends, mode):
    case.skip_if_too_large()
    control = {"reset_mask": mask(case, resets), "lengths": lengths_of(case, ends)}
    exact, x, hx = problem(case)
    weights = list(exact.parameters())

    def specified(x, hx):
        return reference.lstm(x, hx, weights, **settings(exact), **placed(control, "cpu"))

    true = results(specified, x, hx, weights_of(exact))
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode, stateful=False)
        here = placed(control, DEVICE)
        found = results(lambda x, hx: lstm(x, hx, **here), x, hx, weights_of(lstm))
        assert_right(found, true, case, mode)
        with torch.no_grad():
            assert_right(flat(lstm(x, hx, **here)), true, case, mode)
            assert_right(flat(pure(lstm, x, hx, **here)), true, case, mode)


@modes
@pytest.mark.parametrize("grad", [False, True])
@cases((5, 3, 64), (5, 17, 320, 19, 2), (1, 3, 24), (4, 3, 40, 19, 1, False, 24))
def test_a_nan_in_the_state_ends_at_a_reset(case, grad, mode):
    case.skip_if_too_large()
    x, hx = inputs(case, mode)
    first = torch.zeros(case.T, case.B, dtype=torch.bool, device=DEVICE)
    kept = 0 if grad else 1  # rows that go on from NaN; the weights' gradients are of all rows
    first[0, kept:] = True
    with precision(mode), torch.set_grad_enabled(grad):
        lstm = ours(case, mode)
        lstm.allocate_state(case.B)
        expected = flat(lstm(x))
        lstm.state.write(tuple(torch.full_like(s, torch.nan) for s in hx))
        found = flat(lstm(x, reset_mask=first))
    for name, t in found.items():
        assert t[:, :kept].isnan().all() and torch.equal(t[:, kept:], expected[name][:, kept:])
    if grad:
        found["output"].float().sum().backward()
        assert all(weight.grad.isfinite().all() for weight in lstm.parameters())


@modes
@cases((9, 3, 64), (9, 17, 320), (1, 3, 24), (9, 3, 24, 19, 2, True), (5, 3, 40, 19, 1, False, 24))
def test_what_stands_in_x_after_the_end_reaches_nothing(case, mode):
    case.skip_if_too_large()
    x, hx = inputs(case, mode)
    lengths = lengths_of(case, "some").to(DEVICE)
    after = torch.arange(case.T, device=DEVICE).view(-1, 1, 1) >= lengths.view(1, -1, 1)
    with precision(mode), torch.no_grad():
        lstm = ours(case, mode, stateful=False)
        clean = flat(lstm(x, hx, lengths=lengths))
        dirty = flat(lstm(x.masked_fill(after, torch.nan), hx, lengths=lengths))
    assert same(dirty, clean) and not clean["output"].masked_select(after).any()


# ---- slots -------------------------------------------------------------------------------------


def slots_of(case, slots):
    """Slots in no order; every fifth row, the second one first, is padding."""
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randperm(slots, generator=generator)[: case.B]
    chosen[1::5] = -1
    return chosen


@modes
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("together", [False, True], ids=["slots", "slots-resets-lengths"])
@pytest.mark.parametrize("index", [torch.int64, torch.int32], ids=["int64", "int32"])
@cases(
    (1, 3, 7),
    (1, 17, 64, 19, 2),
    (6, 17, 64),
    (1, 3, 320),
    (6, 3, 192, 19, 2),
    (6, 17, 640),
    (1, 3, 40, 19, 2, False, 24),
    (6, 17, 40, 19, 1, False, 24),
)
def test_slots(case, index, together, grad, mode):
    case.skip_if_too_large()
    rows, slots = slots_of(case, case.B + 4), case.B + 4
    live = rows >= 0
    exact, x, hx = problem(case)
    start = tuple(s * live.view(1, -1, 1) for s in hx)
    lengths = lengths_of(case, "some" if together else "all") * live
    reset = mask(case, "some") if together else None
    weights = list(exact.parameters())
    control = placed({"lengths": lengths, "reset_mask": reset}, "cpu")
    true = flat(reference.lstm(x, start, weights, **settings(exact), **control))

    x, hx = inputs(case, mode)
    lstm = ours(case, mode)
    state = lstm.allocate_state(slots)
    state.h.fill_(7)
    state.c.fill_(7)
    state.write(tuple(s[:, live].to(x.device) for s in hx), rows[live].to(DEVICE))
    with precision(mode), torch.set_grad_enabled(grad):
        here = placed({"reset_mask": reset}, DEVICE)
        if together:
            here["lengths"] = lengths_of(case, "some").to(DEVICE)
        found = flat(lstm(x, state_indices=rows.to(DEVICE, index), **here))
    assert_right(found, true, case, mode)
    h, c = (s.cpu() for s in state.read())
    kept = {"h_n": h[:, rows[live]], "c_n": c[:, rows[live]]}
    assert_right(kept, {name: true[name][:, live] for name in kept}, case, mode)
    others = torch.ones(slots, dtype=torch.bool)
    others[rows[live]] = False
    assert (h[:, others] == 7).all() and (c[:, others] == 7).all()
    assert not any(found[name][:, ~live.to(DEVICE)].any() for name in found)


@modes
@cases((5, 17, 64, 19, 2, True), (1, 3, 24, 19, 1, True))
def test_slots_in_both_directions(case, mode):
    """The reverse direction starts from zero; the forward one goes on."""
    case.skip_if_too_large()
    rows = slots_of(case, case.B + 2)
    live = rows >= 0
    exact, x, hx = problem(case)
    start = tuple(s * live.view(1, -1, 1) for s in hx)
    for s in start:
        s[1::2] = 0
    lengths = torch.full((case.B,), case.T) * live
    weights = list(exact.parameters())
    true = flat(reference.lstm(x, start, weights, **settings(exact), lengths=lengths))
    x, hx = inputs(case, mode)
    for grad in (False, True):
        lstm = ours(case, mode)
        lstm.allocate_state(case.B + 2)
        lstm.state.write(tuple(s[:, live.to(DEVICE)] for s in hx), rows[live].to(DEVICE))
        with precision(mode), torch.set_grad_enabled(grad):
            found = flat(lstm(x, state_indices=rows.to(DEVICE)))
        assert_right(found, true, case, mode)


@modes
def test_a_call_with_everything_has_gradients(mode):
    """Slots, padding, resets and lengths in one training call."""
    case = Case(7, 8, 40, layers=2)
    rows = slots_of(case, 12)
    live = rows >= 0
    exact, x, hx = problem(case)
    start = tuple(s * live.view(1, -1, 1) for s in hx)
    reset, lengths = mask(case, "some"), lengths_of(case, "some")
    x = x.clone().requires_grad_()
    control = {"reset_mask": reset, "lengths": lengths * live}
    true = flat(reference.lstm(x, start, list(exact.parameters()), **settings(exact), **control))
    true |= backward(true, {"input": x, **weights_of(exact)})

    x, hx = inputs(case, mode)
    x.requires_grad_()
    lstm = ours(case, mode)
    lstm.allocate_state(12)
    lstm.state.write(tuple(s[:, live.to(DEVICE)] for s in hx), rows[live].to(DEVICE))
    with precision(mode):
        found = flat(
            lstm(
                x,
                state_indices=rows.to(DEVICE),
                reset_mask=reset.to(DEVICE),
                lengths=lengths.to(DEVICE),
            )
        )
        found |= backward(found, {"input": x, **weights_of(lstm)})
    assert_right(found, true, case, mode)


def test_a_state_of_its_own_is_advanced_and_the_resident_one_is_not():
    case = Case(4, 3, 24)
    x, hx = inputs(case, "float32")
    lstm = ours(case, "float32")
    lstm.allocate_state(3).write(hx)
    before, other = lstm.state.read(), lstm.new_state(3)
    assert other.h.device == DEVICE
    with torch.no_grad():
        first = lstm(x, state=other)[0]
        assert same_bits(other.h, first[-1:])
        assert all(same_bits(a, b) for a, b in zip(lstm.state.read(), before, strict=True))
        torch.testing.assert_close(lstm(x, tuple(torch.zeros_like(s) for s in hx))[0], first)
