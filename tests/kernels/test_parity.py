"""StatefulLSTM(stateful=False) and stateful_lstm.lstm compute what nn.LSTM computes."""

import copy
import os

import pytest
import torch
from comparisons import (
    MARKS,
    assert_as_good_as,
    assert_close,
    cotangent,
    double,
    eps,
    module_results,
    random_hx,
    results,
    settings,
    tolerance,
    twin,
)
from parity_support import (
    BACKENDS,
    B,
    H,
    I,
    T,
    backends,
    check,
    check_module,
    configs,
    dense,
    dtypes,
    functional,
    with_hx,
)
from torch import nn

import stateful_lstm

pytestmark = MARKS


# ---- values and gradients ----------------------------------------------------------------------


@configs
@dtypes
@with_hx
def test_the_layer_equals_nn_lstm(config, dtype, given):
    lstm = nn.LSTM(I, H, dtype=dtype, **config)
    check_module(lstm, dense(lstm), random_hx(lstm, B) if given else None)


@configs
@dtypes
@backends
def test_each_backend_equals_nn_lstm(config, dtype, backend):
    lstm = nn.LSTM(I, H, dtype=dtype, **config)
    check(functional(lstm, backend), lstm, dense(lstm), random_hx(lstm, B))


@backends
@configs
def test_each_backend_starts_from_zeros_without_hx(config, backend):
    lstm = nn.LSTM(I, H, dtype=torch.float64, **config)
    check(functional(lstm, backend), lstm, dense(lstm))


@configs
@dtypes
@pytest.mark.parametrize("steps", [1, T])
def test_inference_equals_nn_lstm(config, dtype, steps):
    lstm = nn.LSTM(I, H, dtype=dtype, **config).eval()
    x, hx = dense(lstm, steps), random_hx(lstm, B)

    def infer(module, x, hx):
        with torch.inference_mode():
            output, (h, c) = module(x, hx)
        return {"output": output, "h_n": h, "c_n": c}

    truth = infer(copy.deepcopy(lstm).double(), double(x), double(hx))
    ours, theirs = infer(twin(lstm, stateful=False), x, hx), infer(lstm, x, hx)
    if dtype == torch.float64:
        assert_close(ours, truth, tolerance(dtype, steps * lstm.num_layers, I + H))
    else:
        assert_as_good_as(ours, theirs, truth)


@pytest.mark.parametrize("hidden", [1, 3, 5, 7, 8, 16, 17, 33, 64, 100])
@dtypes
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 5), (4, 1), (3, 9)])
def test_sizes_that_divide_no_vector_width(hidden, dtype, steps, batch):
    lstm = nn.LSTM(hidden // 2 + 1, hidden, dtype=dtype)
    x = dense(lstm, steps, batch)
    check(functional(lstm, "cpu"), lstm, x, random_hx(lstm, batch))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 1, 3), (1, 2, 3, 1), (3, 17, 1, 1)])
@dtypes
@backends
def test_sizes_of_one(shape, dtype, backend):
    steps, batch, inputs, hidden = shape
    lstm = nn.LSTM(inputs, hidden, num_layers=2, bidirectional=True, dtype=dtype)
    x = dense(lstm, steps, batch)
    check(functional(lstm, backend), lstm, x, random_hx(lstm, batch))


@pytest.mark.parametrize("proj", [1, 5, 16, 32])
@dtypes
def test_projections_that_divide_no_vector_width(proj, dtype):
    lstm = nn.LSTM(I, 33, proj_size=proj, dtype=dtype)
    check(functional(lstm, "cpu"), lstm, dense(lstm), random_hx(lstm, B))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_rows_and_steps(dtype):
    # Sanitized kernels take minutes over so many. Fewer steps come in several ranges, too.
    steps = 12 if "STATEFUL_LSTM_SANITIZE" in os.environ else 50
    lstm = nn.LSTM(40, 72, num_layers=2, dtype=dtype)
    check_module(lstm, dense(lstm, steps, 37), random_hx(lstm, 37))


@pytest.mark.unsanitized("takes too long")
def test_more_than_65535_steps():
    lstm, steps = nn.LSTM(2, 3), 66_000
    x, hx = dense(lstm, steps, 1), random_hx(lstm, 1)
    bound = 2 * eps(x.dtype) * steps**0.5  # a sum's roundings, of either sign
    assert_close(functional(lstm, "cpu")(x, hx), module_results(lstm, x, hx), bound)


@pytest.mark.unsanitized("takes too long")
@pytest.mark.parametrize("shape", [(6, 33, 200), (1, 64, 256), (9, 1, 300), (4, 130, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_nothing_but_rounding(shape, dtype):
    steps, batch, hidden = shape
    lstm = nn.LSTM(hidden, hidden, dtype=dtype)
    x, hx = dense(lstm, steps, batch), random_hx(lstm, batch)
    compute = functional(lstm, "cpu")
    one = compute(x, hx)
    torch.set_num_threads(3)
    try:
        three = compute(x, hx)
    finally:
        torch.set_num_threads(1)
    assert_close(three, one, tolerance(dtype, steps, 1))
    check(compute, lstm, x, hx)


@configs
@with_hx
def test_unbatched_input(config, given):
    lstm = nn.LSTM(I, H, dtype=torch.float64, **config)
    x, hx = torch.randn(T, I, dtype=torch.float64), random_hx(lstm) if given else None
    check_module(lstm, x, hx)
    for backend in BACKENDS:
        check(functional(lstm, backend), lstm, x, hx)


def test_an_empty_batch():
    lstm = nn.LSTM(I, H, num_layers=2)
    output, (h, c) = twin(lstm, stateful=False)(torch.randn(T, 0, I))
    assert (output.shape, h.shape, c.shape) == ((T, 0, H), (2, 0, H), (2, 0, H))
    for backend in BACKENDS:
        got = functional(lstm, backend)(torch.randn(T, 0, I))
        assert got["output"].shape == (T, 0, H)
        assert all(got[f"gradient of {n}"].count_nonzero() == 0 for n, _ in lstm.named_parameters())


# ---- memory layouts, and what autograd hands over ------------------------------------------------


def scattered(t):
    """The same values, every other element of a larger NaN tensor, axes stored backwards."""
    store = torch.full([2 * n for n in reversed(t.shape)], float("nan"), dtype=t.dtype)
    view = store.permute(*reversed(range(t.dim())))[tuple(slice(1, None, 2) for _ in t.shape)]
    view.copy_(t.detach())
    assert t.numel() == 1 or not view.is_contiguous()
    return view


@configs
@backends
def test_inputs_and_states_of_any_layout(config, backend):
    lstm = nn.LSTM(I, H, dtype=torch.float64, **config)
    x, hx = dense(lstm), random_hx(lstm, B)
    truth = module_results(lstm, x, hx)
    got = functional(lstm, backend)(scattered(x), tuple(map(scattered, hx)))
    assert_close(got, truth, tolerance(x.dtype, 3 * T, 4 * H + T * B))


@configs
@dtypes
@backends
def test_weights_of_any_layout(config, dtype, backend):
    lstm = nn.LSTM(I, H, dtype=dtype, **config)
    x, hx = dense(lstm), random_hx(lstm, B)
    truth = functional(lstm, backend)(x, hx)
    weights = {k: scattered(w).requires_grad_() for k, w in lstm.named_parameters()}
    got = results(
        lambda x, hx: stateful_lstm.lstm(
            x, hx, list(weights.values()), backend=backend, **settings(lstm)
        ),
        x,
        hx,
        weights,
    )
    assert_close(got, truth, tolerance(dtype, 3 * T, 4 * H + T * B))


@backends
def test_a_state_expanded_over_the_batch(backend):
    lstm = nn.LSTM(I, H, dtype=torch.float64)
    hx = tuple(torch.randn(1, 1, H).double().expand(1, B, H) for _ in "hc")
    check(functional(lstm, backend), lstm, dense(lstm), hx)


@pytest.mark.parametrize("used", ["output", "h_n", "c_n", "last output", "sum", "transposed"])
@pytest.mark.parametrize("config", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 2}])
def test_gradients_of_a_loss_on_part_of_the_results(used, config):
    lstm = nn.LSTM(I, H, dtype=torch.float64, **config)
    ours = twin(lstm, stateful=False)
    x = dense(lstm)
    loss = {
        "output": lambda y, h, c: y.pow(2).sum(),
        "h_n": lambda y, h, c: h.pow(2).sum(),
        "c_n": lambda y, h, c: c.pow(2).sum(),
        "last output": lambda y, h, c: y[-1].pow(2).sum(),
        "sum": lambda y, h, c: y.sum() + h.sum() + c.sum(),  # cotangents of stride 0
        "transposed": lambda y, h, c: (y.transpose(0, 2).contiguous() ** 3).sum(),
    }[used]

    def grads(module):
        y, (h, c) = module(x)
        names, leaves = zip(*module.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(loss(y, h, c), leaves), strict=True))

    assert_close(grads(ours), grads(lstm), tolerance(x.dtype, 2 * T, 4 * H + T * B))


@pytest.mark.parametrize("wanted", ["input", "h_0", "c_0", "weight_ih_l0", "bias_hh_l1"])
@backends
def test_only_the_wanted_gradient(wanted, backend):
    lstm = nn.LSTM(I, H, num_layers=2, dtype=torch.float64)
    x, hx = dense(lstm), random_hx(lstm, B)
    truth = module_results(lstm, x, hx)[f"gradient of {wanted}"]
    weights = {k: w.detach().clone() for k, w in lstm.named_parameters()}
    leaves = {"input": x, "h_0": hx[0], "c_0": hx[1]} | weights
    leaves[wanted].requires_grad_()
    y, (h, c) = stateful_lstm.lstm(x, hx, list(weights.values()), num_layers=2, backend=backend)
    seeds = [cotangent(t, k) for k, t in enumerate([y, h, c])]
    (got,) = torch.autograd.grad([y, h, c], [leaves[wanted]], seeds)
    assert_close({"": got}, {"": truth}, tolerance(x.dtype, 2 * T, 4 * H + T * B))


@backends
def test_no_graph_where_nothing_asks_for_one(backend):
    lstm = nn.LSTM(I, H).requires_grad_(False)
    output, (h, c) = stateful_lstm.lstm(dense(lstm), None, list(lstm.parameters()), backend=backend)
    assert not (output.requires_grad or h.requires_grad or c.requires_grad)


@pytest.mark.unsanitized("its bits or its accuracy are those of another compilation")
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
@configs
def test_backward_repeats_itself_bit_for_bit(config, recompute):
    lstm = nn.LSTM(I, 40, **config)
    x = dense(lstm, 20, 9)
    y, (h, c) = stateful_lstm.lstm(
        x, None, list(lstm.parameters()), backend="cpu", recompute=recompute, **settings(lstm)
    )
    loss, weights = y.pow(2).sum() + h.sum() + c.sum(), list(lstm.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    again = torch.autograd.grad(loss, weights)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("changed", ["input", "h_0", "c_0", "weight_ih", "weight_hh", "output"])
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
def test_a_change_before_backward_does_not_pass_unnoticed(changed, recompute):
    lstm = nn.LSTM(I, H, dtype=torch.float64)
    x, hx, weights = dense(lstm), random_hx(lstm, B), list(lstm.parameters())
    y, (h, c) = stateful_lstm.lstm(x, hx, weights, backend="cpu", recompute=recompute)
    loss = y.exp().sum() + h.exp().sum() + c.exp().sum()
    truth = torch.autograd.grad(loss, weights, retain_graph=True)
    tensors = [x, *hx, *weights[:2], y]
    names = ["input", "h_0", "c_0", "weight_ih", "weight_hh", "output"]
    with torch.no_grad():
        dict(zip(names, tensors, strict=True))[changed].add_(1)
    try:
        got = torch.autograd.grad(loss, weights)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        got = truth
    assert all(a.equal(b) for a, b in zip(got, truth, strict=True))


@pytest.mark.parametrize("control", [{}, {"lengths": torch.zeros(B, dtype=torch.int64)}], ids=str)
@backends
def test_results_share_no_memory(control, backend):
    lstm = nn.LSTM(I, H).requires_grad_(False)
    x, hx = dense(lstm), random_hx(lstm, B)
    before = [t.clone() for t in (x, *hx)]
    weights = list(lstm.parameters())
    y, (h, c) = stateful_lstm.lstm(x, hx, weights, backend=backend, **control)
    for result in (y, h, c):
        others = [t.clone() for t in (y, h, c) if t is not result]
        result.fill_(7.0)
        assert all(t.equal(b) for t, b in zip((x, *hx), before, strict=True))
        rest = [t for t in (y, h, c) if t is not result]
        assert all(t.equal(b) for t, b in zip(rest, others, strict=True))
