"""After any exception, h and c of a state are both old or both new."""

import pytest
import torch
from state_support import make, noise
from torch.overrides import TorchFunctionMode

import stateful_lstm
from stateful_lstm.backend import operators

pytestmark = pytest.mark.filterwarnings("ignore:stateful_lstm runs on its slow reference")


class RaiseAfter(TorchFunctionMode):
    """A signal handler that raises after so many calls of torch."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return result


def ones(lstm, n):
    return tuple(torch.ones(t.size(0), n, t.size(2)) for t in (lstm.state.h, lstm.state.c))


def preserved(lstm):
    with lstm.preserve_state():
        lstm.state.write(ones(lstm, 3))


MASK, SOME = torch.tensor([True, False, True]), torch.tensor([2, 0], dtype=torch.int32)
ACTS = {
    "call": lambda m, x: m(x),
    "call_with_slots": lambda m, x: m(x[:, :2], state_indices=SOME),
    "call_with_hx": lambda m, x: m(x, m.state.read()),
    "call_without_grad": lambda m, x: torch.no_grad()(m)(x),
    "step": lambda m, x: torch.no_grad()(m)(x[:1]),
    "step_with_slots": lambda m, x: torch.no_grad()(m)(x[:1, :2], state_indices=SOME),
    "reset": lambda m, x: m.reset_state(),
    "reset_by_mask": lambda m, x: m.reset_state(MASK),
    "reset_by_index": lambda m, x: m.reset_state(SOME),
    "write": lambda m, x: m.state.write(ones(m, 3)),
    "write_by_mask": lambda m, x: m.state.write(ones(m, 2), MASK),
    "write_by_index": lambda m, x: m.state.write(ones(m, 2), SOME),
    "preserved": lambda m, x: preserved(m),
    "move": lambda m, x: m.to(torch.float64),
}


@pytest.mark.sampled
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("library", [True, False], ids=["library", "reference"])
def test_no_exception_leaves_one_new_and_the_other_old(act, dtype, library, monkeypatch):
    if not library:
        monkeypatch.setattr(operators, "missing", "left out by this test")
        for name in ("fastpath_inference", "fastpath_forward", "fastpath_gradients"):
            monkeypatch.setattr(operators, name, None)
    x, done, count = noise(4, 3, 3, dtype=dtype), False, 0
    while not done:
        count += 1
        lstm = make(dtype=dtype, bidirectional=True)
        lstm.allocate_state(3).write(ones_of(lstm))
        old = lstm.state.read()
        try:
            with RaiseAfter(count):
                act(lstm, x)
            done = True
        except KeyboardInterrupt:
            torch.set_grad_enabled(True)  # the exception may come as torch.no_grad() ends
        state = lstm.state
        pairs = zip((state.h, state.c), old, strict=True)
        h_old, c_old = (now.dtype == was.dtype and torch.equal(now, was) for now, was in pairs)
        assert done or h_old == c_old, count
        assert (state.h.dtype == torch.float64) == (state.c.dtype == torch.float64)
        assert count < 2000


def ones_of(lstm):
    return tuple(torch.full_like(t, 0.25) for t in (lstm.state.h, lstm.state.c))


@pytest.mark.parametrize("library", [True, False], ids=["library", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_rows_go_where_they_belong_and_nowhere_else(dtype, library, monkeypatch):
    if not library:
        monkeypatch.setattr(operators, "missing", "left out by this test")
    state = make(dtype=dtype, num_layers=2, proj_size=2).new_state(5)
    full = noise(2, 5, 2, dtype=dtype), noise(2, 5, 5, seed=3).to(state.c.dtype)
    state.write(full)
    version = state.h._version, state.c._version
    mask = torch.tensor([False, True, False, False, True])
    state.reset(mask)
    assert state.h._version > version[0]
    assert state.c._version > version[1]
    for now, was in zip((state.h, state.c), full, strict=True):
        assert not now[:, mask].any()
        assert torch.equal(now[:, ~mask], was[:, ~mask])
    order = torch.tensor([3, 0, 2])
    new = noise(2, 3, 2, seed=5, dtype=dtype), noise(2, 3, 5, seed=6).to(state.c.dtype)
    state.write(new, order)
    for now, rows in zip((state.h, state.c), new, strict=True):
        assert torch.equal(now[:, order], rows)
        assert not now[:, mask].any()


@pytest.mark.parametrize("library", [True, False], ids=["library", "reference"])
def test_parts_of_a_state_can_be_written_into_it(library, monkeypatch):
    if not library:
        monkeypatch.setattr(operators, "missing", "left out by this test")
    state = make().new_state(3)
    full = noise(1, 3, 5), noise(1, 3, 5, seed=3)
    state.write(full)
    order = torch.tensor([1, 2, 0])
    state.write((state.h, state.c), order)  # slot k goes to slot order[k]
    assert torch.equal(state.h[:, order], full[0])
    assert torch.equal(state.c[:, order], full[1])
    state.write(full)
    state.write((state.c, state.h))
    assert torch.equal(state.h, full[1])
    assert torch.equal(state.c, full[0])


def test_a_reset_inside_a_backward_pass_is_taken():
    lstm = make()
    lstm.allocate_state(3)
    y, _ = lstm(noise(4, 3, 3))
    y.register_hook(lambda grad: lstm.reset_state(torch.tensor([1])))
    y.sum().backward()
    assert not lstm.state.h[:, 1].any()
    assert lstm.state.h[:, 0].any()


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, torch.Tensor.to_mkldnn])
@pytest.mark.parametrize("which", [None, [0, 1, 2]])
def test_tensors_that_are_not_dense_are_refused_before_anything_is_written(change, which):
    state = make(dtype=torch.float32).new_state(3)
    good = torch.ones(1, 3, 5)
    for pair in ((good, change(good)), (change(good), good)):
        with pytest.raises(TypeError, match="two dense floating-point tensors"):
            state.write(pair, which)
    assert not state.h.any()
    assert not state.c.any()


@pytest.mark.parametrize("layers", [1, 3])
def test_one_exception_while_preserve_state_puts_back_leaves_no_trace(layers):
    """As Ctrl-C may come: after any call of torch on leaving."""
    model, x = torch.nn.ModuleList(make(k) for k in range(layers)), noise(4, 2, 3)
    for count in range(1, 30):
        for lstm in model:
            lstm(x)
        before = [lstm.state.read() for lstm in model]
        try:
            with stateful_lstm.preserve_state(model):
                for lstm in model:
                    lstm(x)
                mode = RaiseAfter(count)
                mode.__enter__()
        except KeyboardInterrupt:
            pass
        finally:
            mode.__exit__(None, None, None)
            torch.set_grad_enabled(True)
        for lstm, was in zip(model, before, strict=True):
            assert all(map(torch.equal, lstm.state.read(), was)), count
