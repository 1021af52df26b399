"""StatefulLSTM(stateful=False) and stateful_lstm.lstm compute what nn.LSTM computes."""

import copy
import os

import pytest
import torch
from support import (
    BACKENDS,
    DTYPES,
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
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

T, B, I, H = 5, 3, 6, 7  # noqa: E741

CONFIGS = {
    "plain": {},
    "2-layers": {"num_layers": 2},
    "3-layers-both-ways": {"num_layers": 3, "bidirectional": True},
    "both-ways": {"bidirectional": True},
    "projected": {"proj_size": 3},
    "2-layers-both-ways-projected": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "no-bias": {"bias": False},
    "no-bias-3-layers-projected": {"bias": False, "num_layers": 3, "proj_size": 6},
    "batch-first-2-layers": {"batch_first": True, "num_layers": 2},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
backends = pytest.mark.parametrize("backend", BACKENDS)
with_hx = pytest.mark.parametrize("given", [True, False], ids=["hx", "no-hx"])


def dense(lstm, steps=T, batch=B):
    """A random input in an LSTM's layout and dtype."""
    shape = (batch, steps) if lstm.batch_first else (steps, batch)
    return torch.randn(*shape, lstm.input_size).to(next(lstm.parameters()))


def functional(lstm, backend, **extras):
    """The results of stateful_lstm.lstm, on the weights and settings of a module."""

    def compute(x, hx=None):
        weights = dict(lstm.named_parameters())
        keywords = settings(lstm) | {"backend": backend} | extras
        return results(
            lambda x, hx: stateful_lstm.lstm(x, hx, list(weights.values()), **keywords),
            x,
            hx,
            weights,
        )

    return compute


def check(ours, lstm, x, hx=None):
    """ours(x, hx) is as good as nn.LSTM, in outputs and in every gradient."""
    theirs = module_results(lstm, x, hx)
    if x.dtype == torch.float64:
        steps, width = lstm.num_layers * T, x.shape[-1] + 4 * lstm.hidden_size + x.shape[0] * B
        assert_close(ours(x, hx), theirs, tolerance(x.dtype, steps, width))
    else:
        truth = module_results(copy.deepcopy(lstm).double(), double(x), double(hx))
        assert_as_good_as(ours(x, hx), theirs, truth)


def check_module(lstm, x, hx=None):
    check(lambda x, hx: module_results(twin(lstm, stateful=False), x, hx), lstm, x, hx)


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


def test_more_than_65535_steps():
    lstm, steps = nn.LSTM(2, 3), 66_000
    x, hx = dense(lstm, steps, 1), random_hx(lstm, 1)
    bound = 2 * eps(x.dtype) * steps**0.5  # a sum's roundings, of either sign
    assert_close(functional(lstm, "cpu")(x, hx), module_results(lstm, x, hx), bound)


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


# ---- packed sequences ----------------------------------------------------------------------------


def packed_results(lstm, x, lengths, hx=None):
    """The results of a module on a PackedSequence made of x, whatever the order of lengths."""
    in_order = sorted(lengths, reverse=True) == lengths

    def call(x, hx):
        packed = pack_padded_sequence(x, lengths, lstm.batch_first, enforce_sorted=in_order)
        output, states = lstm(packed, hx)
        assert isinstance(output, PackedSequence)
        for got, expected in zip(output[1:], packed[1:], strict=True):
            assert (got is None and expected is None) or torch.equal(got, expected)
        return output.data, states

    return results(call, x, hx, dict(lstm.named_parameters()))


@configs
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4], [5, 5, 5]], ids=str)
@with_hx
def test_packed_sequences(config, lengths, given):
    lstm = nn.LSTM(I, H, dtype=torch.float64, **config)
    x, hx = dense(lstm), random_hx(lstm, B) if given else None
    truth = packed_results(lstm, x, lengths, hx)
    got = packed_results(twin(lstm, stateful=False), x, lengths, hx)
    assert_close(got, truth, tolerance(x.dtype, 3 * T, 4 * H + T * B))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_sequences_in_lower_precision(dtype):
    lstm = nn.LSTM(I, H, num_layers=2, bidirectional=True, dtype=dtype)
    x, hx, lengths = dense(lstm), random_hx(lstm, B), [2, 5, 4]
    truth = packed_results(copy.deepcopy(lstm).double(), double(x), lengths, double(hx))
    ours = packed_results(twin(lstm, stateful=False), x, lengths, hx)
    assert_as_good_as(ours, packed_results(lstm, x, lengths, hx), truth)


@pytest.mark.parametrize("extra", ["reset_mask", "lengths"])
def test_packed_sequences_refuse_masks_and_lengths(extra):
    packed = pack_sequence([torch.randn(3, I), torch.randn(2, I)])
    value = {
        "reset_mask": torch.zeros(3, 2, dtype=torch.bool),
        "lengths": torch.tensor([3, 2]),
    }[extra]
    with pytest.raises(ValueError, match=extra):
        StatefulLSTM(I, H, stateful=False)(packed, **{extra: value})


# ---- dropout between layers ----------------------------------------------------------------------

DROPPED = {
    "dense": {},
    "batch-first": {"batch_first": True},
    "both-ways": {"bidirectional": True},
    "projected": {"proj_size": 3},
    "batch-first-both-ways-projected": {
        "batch_first": True, "bidirectional": True, "proj_size": 3,
    },
}  # fmt: skip
dropped = pytest.mark.parametrize("config", DROPPED.values(), ids=DROPPED.keys())


def seeded(call):
    """call() from a fixed seed, with the random numbers it leaves behind."""
    torch.manual_seed(3)
    got = call()
    return got, torch.get_rng_state()


def check_same_draws(ours, theirs, dtype=torch.float64, steps=3 * T, width=4 * H + T * B):
    got, left = seeded(ours)
    expected, theirs_left = seeded(theirs)
    assert_close(got, expected, tolerance(dtype, steps, width))
    assert torch.equal(left, theirs_left)


@dropped
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dropout_draws_nn_lstms_masks(config, dtype):
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=dtype, **config)
    ours, x = twin(lstm, stateful=False), dense(lstm)
    check_same_draws(lambda: module_results(ours, x), lambda: module_results(lstm, x), dtype)


@dropped
@backends
def test_dropout_draws_nn_lstms_masks_on_each_backend(config, backend):
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64, **config)
    x = dense(lstm)
    check_same_draws(lambda: functional(lstm, backend)(x), lambda: module_results(lstm, x))


@dropped
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4]], ids=str)
def test_dropout_draws_nn_lstms_masks_when_packed(config, lengths):
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64, **config)
    ours, x = twin(lstm, stateful=False), dense(lstm)
    check_same_draws(
        lambda: packed_results(ours, x, lengths), lambda: packed_results(lstm, x, lengths)
    )


def test_dropout_draws_nn_lstms_masks_when_unbatched():
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64)
    ours, x = twin(lstm, stateful=False), torch.randn(T, I).double()
    check_same_draws(lambda: module_results(ours, x), lambda: module_results(lstm, x))


def test_dropout_of_everything():
    lstm = nn.LSTM(I, H, 2, dropout=1.0, dtype=torch.float64)
    ours, x = twin(lstm, stateful=False), dense(lstm)
    check_same_draws(lambda: module_results(ours, x), lambda: module_results(lstm, x))


def test_no_dropout_in_eval_mode():
    lstm = nn.LSTM(I, H, 3, dropout=0.4, dtype=torch.float64).eval()
    before = torch.get_rng_state()
    x = dense(lstm)
    ours = twin(lstm, stateful=False)
    torch.set_rng_state(before)
    got = module_results(ours, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(got, module_results(lstm, x), tolerance(x.dtype, 3 * T, 4 * H + T * B))


# ---- parameters ----------------------------------------------------------------------------------


@configs
@dtypes
def test_the_same_seed_gives_the_same_parameters(config, dtype):
    torch.manual_seed(5)
    theirs = nn.LSTM(I, H, dtype=dtype, **config)
    torch.manual_seed(5)
    ours = StatefulLSTM(I, H, dtype=dtype, **config)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name


@configs
def test_a_state_dict_loads_strictly_into_either_class(config):
    theirs, ours = nn.LSTM(I, H, **config), StatefulLSTM(I, H, **config)
    ours(dense(ours))  # a resident state must not show
    back = nn.LSTM(I, H, **config)
    back.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = dense(theirs)
    assert ours.all_weights[0][0].equal(theirs.all_weights[0][0])
    assert not back(x)[0].equal(theirs(x)[0])
    back.load_state_dict(ours.state_dict())
    assert back(x)[0].equal(theirs(x)[0])


@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_unit_forget_bias_adds_one_to_the_forget_gate_alone(config):
    torch.manual_seed(5)
    plain = StatefulLSTM(I, H, **config).state_dict()
    torch.manual_seed(5)
    raised = StatefulLSTM(I, H, unit_forget_bias=True, **config).state_dict()
    for name in plain:
        if name.startswith("weight"):
            assert raised[name].equal(plain[name])
    for name in [n for n in plain if n.startswith("bias_ih")]:
        other = name.replace("ih", "hh")
        added = raised[name] + raised[other] - plain[name] - plain[other]
        expected = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(H)
        torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("config", [*CONFIGS.values(), {"num_layers": 2, "dropout": 0.5}], ids=str)
def test_repr_is_nn_lstms(config):
    assert repr(StatefulLSTM(I, H, **config)) == "Stateful" + repr(nn.LSTM(I, H, **config))


def test_it_is_an_rnn_base_in_lstm_mode():
    lstm = StatefulLSTM(I, H)
    assert isinstance(lstm, nn.RNNBase)
    assert lstm.mode == "LSTM"
    assert lstm.flatten_parameters() is None


def test_float_conversions_of_the_layer():
    lstm = nn.LSTM(I, H, 2)
    ours = twin(lstm, stateful=False).double()
    x = dense(ours)
    truth = module_results(lstm.double(), x)
    assert_close(module_results(ours, x), truth, tolerance(x.dtype, 2 * T, 4 * H + T * B))


# ---- errors --------------------------------------------------------------------------------------

ok = torch.randn(T, B, I)
BAD_CALLS = {
    "input of rank 1": (torch.randn(I), None),
    "input of rank 4": (torch.randn(1, T, B, I), None),
    "input too wide": (torch.randn(T, B, I + 1), None),
    "unbatched input too wide": (torch.randn(T, I + 1), None),
    "input of another float": (ok.double(), None),
    "input of half precision": (ok.bfloat16(), None),
    "input of integers": (torch.ones(T, B, I, dtype=torch.int64), None),
    "input elsewhere": (torch.randn(T, B, I, device="meta"), None),
    "no steps": (torch.randn(0, B, I), None),
    "h of another batch": (ok, (torch.zeros(1, B + 1, H), torch.zeros(1, B, H))),
    "c of another batch": (ok, (torch.zeros(1, B, H), torch.zeros(1, B + 1, H))),
    "h too wide": (ok, (torch.zeros(1, B, H + 1), torch.zeros(1, B, H))),
    "c too wide": (ok, (torch.zeros(1, B, H), torch.zeros(1, B, H + 1))),
    "h of another depth": (ok, (torch.zeros(2, B, H), torch.zeros(2, B, H))),
    "h unbatched, input batched": (ok, (torch.zeros(1, H), torch.zeros(1, H))),
    "h batched, input unbatched": (ok[:, 0], (torch.zeros(1, 1, H), torch.zeros(1, 1, H))),
    "h of another float": (ok, (torch.zeros(1, B, H).double(), torch.zeros(1, B, H))),
    "c of another float": (ok, (torch.zeros(1, B, H), torch.zeros(1, B, H).double())),
    "h elsewhere": (ok, (torch.zeros(1, B, H, device="meta"), torch.zeros(1, B, H))),
}
# Here nn.LSTM raises what its code happens to stumble over, or, if packed, reads out of bounds.
WORSE_CALLS = {
    "one state": (ok, (torch.zeros(1, B, H),)),
    "three states": (ok, (torch.zeros(1, B, H),) * 3),
    "a tensor for a tuple": (ok, torch.zeros(1, B, H)),
    "packed, of another size": (pack_sequence([torch.randn(3, I + 1)]), None),
    "packed, of another float": (pack_sequence([torch.randn(3, I).double()]), None),
    "packed, h of another batch": (
        pack_sequence([torch.randn(3, I)]),
        (torch.zeros(1, B, H), torch.zeros(1, B, H)),
    ),
}


def raised_by(call):
    try:
        call()
    except Exception as e:
        return e
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bad_calls_raise_what_nn_lstm_raises(case, training):
    lstm = nn.LSTM(I, H).train(training)
    ours = twin(lstm, stateful=False)
    with torch.set_grad_enabled(training):
        theirs = raised_by(lambda: lstm(*BAD_CALLS[case]))
        mine = raised_by(lambda: ours(*BAD_CALLS[case]))
    assert type(mine) is type(theirs), f"{mine!r} where nn.LSTM raises {theirs!r}"
    assert len(str(mine)) > 20


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("case", [c for c in BAD_CALLS if c != "no steps"])
def test_bad_calls_of_the_function_raise_what_nn_lstm_raises(case, backend):
    lstm = nn.LSTM(I, H)
    x, hx = BAD_CALLS[case]
    theirs = raised_by(lambda: lstm(x, hx))
    with pytest.raises((ValueError, RuntimeError, TypeError)) as caught:
        stateful_lstm.lstm(x, hx, list(lstm.parameters()), backend=backend)
    assert type(caught.value) is type(theirs), f"{caught.value!r}, nn.LSTM: {theirs!r}"


@pytest.mark.parametrize("case", WORSE_CALLS)
@pytest.mark.parametrize("stateful", [False, True])
def test_calls_that_nn_lstm_does_not_check_are_refused(case, stateful):
    lstm = StatefulLSTM(I, H, stateful=stateful)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        lstm(*WORSE_CALLS[case])
    assert lstm.state is None


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("fault", ["too few", "too many", "transposed", "double"])
def test_bad_weights_are_refused(fault, backend):
    weights = list(nn.LSTM(I, H).parameters())
    bad = {
        "too few": weights[:3],
        "too many": [*weights, *weights],
        "transposed": [weights[0].t(), *weights[1:]],
        "double": [weights[0], weights[1].double(), *weights[2:]],
    }[fault]
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        stateful_lstm.lstm(ok, None, bad, backend=backend)


@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_size": 0},
        {"hidden_size": 4.0},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"dropout": True},
        {"proj_size": -1},
        {"proj_size": H},
    ],
    ids=str,
)
def test_bad_settings_raise_what_nn_lstm_raises(arguments):
    keywords = {"input_size": I, "hidden_size": H} | arguments
    theirs = raised_by(lambda: nn.LSTM(**keywords))
    with pytest.raises(type(theirs)):
        StatefulLSTM(**keywords)


def test_dropout_in_one_layer_warns_as_nn_lstm_does():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        StatefulLSTM(I, H, dropout=0.5)


def test_a_backend_that_is_not_there_says_why():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    lstm = nn.LSTM(I, H)
    with pytest.raises(RuntimeError, match=r"(?i)cuda"):
        stateful_lstm.lstm(ok, None, list(lstm.parameters()), backend="cuda")


@pytest.mark.parametrize("backend", ["opencl", "", None])
def test_an_unknown_backend_is_refused(backend):
    lstm = nn.LSTM(I, H)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        stateful_lstm.lstm(ok, None, list(lstm.parameters()), backend=backend)
