"""Calls without rows, steps, slots or inputs compute nothing and do not crash."""

import itertools

import pytest
import torch
from state_support import make, noise

import stateful_lstm
from stateful_lstm.backend import operators

SIZES = list(itertools.product((0, 1, 2, 5, 9), (0, 1, 3)))  # T, B
FORMS = {
    "one": {},
    "two_layers": {"num_layers": 2},
    "both_directions": {"bidirectional": True, "num_layers": 2},
    "projected": {"proj_size": 2},
    "batch_first": {"batch_first": True},
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@every_form
@every_dtype
@pytest.mark.parametrize("grad", [False, True])
def test_a_stateful_layer_takes_any_size_that_is_zero(form, dtype, grad):
    for (T, B), S in itertools.product(SIZES, (0, 4)):
        if 0 not in (T, B, S) or B > S:
            continue
        lstm = make(dtype=dtype, **form)
        lstm.allocate_state(S)
        order = (B, T) if lstm.batch_first else (T, B)
        x = noise(*order, 3, dtype=dtype).requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            y, (h_n, c_n) = lstm(
                x,
                reset_mask=torch.ones(order, dtype=torch.bool),
                lengths=torch.full((B,), T),
                state_indices=torch.arange(B),
            )
        assert y.shape[:2] == order
        assert h_n.shape[1] == c_n.shape[1] == B
        assert not lstm.state.h.any() or (T > 0 and B > 0)
        if grad:
            y.float().sum().backward()
            assert x.grad.shape == x.shape


@every_form
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
def test_the_function_takes_any_size_that_is_zero(form, backend, recompute):
    for T, B in SIZES:
        if T > 0 and B > 0:
            continue
        lstm = make(dtype=torch.float32, **form)
        x = noise(*((B, T) if lstm.batch_first else (T, B)), 3, dtype=torch.float32)
        y, (h_n, c_n) = stateful_lstm.lstm(
            x.requires_grad_(),
            None,
            list(lstm.parameters()),
            backend=backend,
            recompute=recompute,
            **form,
        )
        if T > 0 or backend == "cpu":  # without steps the reference makes no graph
            (y.sum() + h_n.sum() + c_n.sum()).backward()
            assert x.grad.shape == x.shape


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@every_form
def test_compiled_calls_and_state_functions_take_no_rows(form, fresh_compiler):
    lstm = make(dtype=torch.float32, **form)
    lstm.allocate_state(0)
    call = torch.compile(lstm, backend="aot_eager", fullgraph=True)
    order = (0, 5) if lstm.batch_first else (5, 0)
    with torch.no_grad():
        y, _ = call(torch.zeros(*order, 3))
    assert y.shape[:2] == order
    lstm.reset_state([])
    lstm.reset_state(torch.zeros(0, dtype=torch.bool))
    assert lstm.state.read([])[0].shape[1] == 0
    lstm.state.write(lstm.state.read())


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_and_exported_programs_take_any_size_that_is_zero():
    lstm = make(dtype=torch.float32, num_layers=2, stateful=False).eval()
    example = (torch.randn(5, 2, 3),)
    sizes = ({0: torch.export.Dim("steps"), 1: torch.export.Dim("batch")},)
    programs = (
        torch.jit.trace(lstm, example),
        torch.export.export(lstm, example, dynamic_shapes=sizes).module(),
    )
    for T, B in ((0, 2), (5, 0), (0, 0), (1, 0)):
        for program in programs:
            assert program(torch.zeros(T, B, 3))[0].shape == (T, B, 5)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("projection", [False, True])
def test_the_operators_take_any_size_that_is_zero(dtype, reverse, projection):
    H, P, I = 4, 2 if projection else 4, 3  # noqa: E741
    for T, B in itertools.product((0, 1, 3), (0, 2)):
        x, w_ih, w_hh = (zeros(*s, dtype=dtype) for s in ((T, B, I), (4 * H, I), (4 * H, P)))
        bias, w_hr = zeros(4 * H, dtype=dtype), zeros(P, H, dtype=dtype) if projection else None
        h0, c0, control = zeros(B, P, dtype=dtype), zeros(B, H), (None, None, None, reverse)
        given = (x, w_ih, w_hh, bias, bias, w_hr, h0, c0, *control)
        y, h_n, c_n, gates, cells = operators.lstm_forward(*given, 2)
        assert y.shape == (T, B, P)
        assert not h_n.any()
        assert not c_n.any()
        assert operators.lstm_gates(*given, y, cells).shape == (T, B, 4 * H)
        grads = (zeros(T, B, P, dtype=dtype), None, None, gates, cells)
        for wanted in (0, 31, 63):
            left = (*grads, x, y, h0, c0, w_ih, w_hh, w_hr, *control, None, None, None)
            assert operators.lstm_gradients(*left, wanted)[5].shape == (B, H)


def test_the_state_operators_take_no_rows_and_no_slots():
    for T, B, S in itertools.product((1, 3, 7), (0, 2), (0, 2)):
        if B > S:
            continue
        h, c, rows = zeros(1, S, 4), zeros(1, S, 4), torch.arange(B)
        weights = [zeros(16, 3), zeros(16, 4), zeros(16), zeros(16)]
        step = operators.lstm_step_(zeros(T, B, 3), weights, h, c, rows, None, None, True, False)
        assert step[0].shape == (T, B, 4)
        operators.state_scatter_(h, c, rows, *operators.state_gather(h, c, rows))


def test_no_inputs_and_no_hidden_units_are_refused():
    empty, h = zeros(0, 4), zeros(2, 0)
    w_hh, h0 = zeros(16, 4), zeros(2, 4)
    with pytest.raises(RuntimeError, match="I, H and P 1 or more"):
        operators.lstm_forward(
            zeros(3, 2, 0), zeros(16, 0), w_hh, None, None, None, h0, h0, None, None, None, False, 0
        )
    with pytest.raises(RuntimeError, match="I 1 or more"):
        h1 = h0[None]
        operators.lstm_step_(
            zeros(3, 2, 0), [zeros(16, 0), w_hh], h1, h1 + 0, None, None, None, False, False
        )
    with pytest.raises(RuntimeError, match=r"weight_ih must be \(4H, input_size\)"):
        stateful_lstm.lstm(zeros(3, 2, 0), None, [zeros(16, 0), w_hh], bias=False)
    with pytest.raises(RuntimeError, match="H and P 1 or more"):
        operators.lstm_forward(
            zeros(3, 2, 4), empty, zeros(0, 0), None, None, None, h, h, None, None, None, False, 0
        )
    with pytest.raises(RuntimeError, match="H and P 1 or more"):
        operators.lstm_gradients(
            None, None, None, zeros(3, 2, 0), zeros(3, 2, 0), zeros(3, 2, 4), zeros(3, 2, 0), h, h,
            empty, zeros(0, 0), None, None, None, None, False, None, None, None, 0,
        )  # fmt: skip
    with pytest.raises(RuntimeError, match="1 or more, got 0 and 0"):
        operators.state_gather(zeros(1, 2, 0), zeros(1, 2, 0), None)
    with pytest.raises(RuntimeError, match=r"weight_ih must be \(4H, input_size\)"):
        stateful_lstm.lstm(zeros(3, 2, 4), None, [empty, zeros(0, 0)], bias=False)
