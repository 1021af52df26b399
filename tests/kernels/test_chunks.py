"""A sequence in one call, in chunks or step by step gives the same results."""

import itertools

import pytest
import torch
from comparisons import DTYPES, assert_close, cotangent, random_hx, settings, tolerance
from state_support import same_bits
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytestmark = pytest.mark.usefixtures("one_thread")

T, B, I, H = 9, 3, 4, 6  # noqa: E741

CONFIGS = {
    "plain": {},
    "no-bias": {"bias": False},
    "3-layers": {"num_layers": 3},
    "projected": {"proj_size": 3},
    "2-layers-projected": {"num_layers": 2, "proj_size": 5},
    "batch-first": {"batch_first": True, "num_layers": 2},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
CUTS = {
    "two": [0, 4, T],
    "uneven": [0, 1, 6, 8, T],
    "steps": list(range(T + 1)),
    "with-an-empty-one": [0, 4, 4, T],
}
cuts = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
MASK = torch.tensor([[0, 0, 1], [0] * 3, [1, 0, 0], [0] * 3, [0, 1, 1], [0] * 3, [0] * 3, [1, 0, 1],
                     [0, 0, 1]], dtype=torch.bool)  # fmt: skip
LENGTHS = torch.tensor([9, 3, 6])


def windows(cut):
    return list(itertools.pairwise(cut))


def feed(lstm, x, cut, mask=None, lengths=None, **keywords):
    """Everything a stateful layer returns for x, fed in pieces between the cuts; x is (T, B, I)."""
    turn = (lambda t: t.transpose(0, 1)) if lstm.batch_first else (lambda t: t)
    outputs = []
    for a, b in windows(cut):
        if mask is not None:
            keywords["reset_mask"] = turn(mask[a:b])
        if lengths is not None:
            keywords["lengths"] = (lengths - a).clamp(0, b - a)
        output, (h_n, c_n) = lstm(turn(x[a:b]), **keywords)
        outputs.append(turn(output))
    return {"output": torch.cat(outputs).detach(), "h_n": h_n.detach(), "c_n": c_n.detach()}


def states(lstm):
    return {"h": lstm.state.h.clone(), "c": lstm.state.c.clone()}


def build(dtype=torch.float64, **config):
    """A stateful layer with a random resident state, and a random input."""
    lstm = StatefulLSTM(I, H, dtype=dtype, **config)
    lstm.allocate_state(B).write(random_hx(lstm, B))
    return lstm, torch.randn(T, B, I).to(dtype)


def bound(dtype):
    return tolerance(dtype, 3 * T, I + H)


def check(lstm, x, cut, **keywords):
    """Whole and in pieces: the same outputs, the same returned and the same resident state."""
    with lstm.preserve_state():
        whole = feed(lstm, x, [0, T], **keywords) | states(lstm)
    pieces = feed(lstm, x, cut, **keywords) | states(lstm)
    assert_close(pieces, whole, bound(x.dtype))


# ---- values --------------------------------------------------------------------------------------


@configs
@dtypes
@cuts
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_chunks_equal_one_call(config, dtype, cut, training):
    lstm, x = build(dtype, **config)
    with torch.set_grad_enabled(training):
        check(lstm.train(training), x, cut)


@pytest.mark.parametrize(("hidden", "batch"), [(33, 1), (64, 1), (100, 5), (17, 19)])
@dtypes
def test_steps_equal_one_call_over_sizes(hidden, batch, dtype):
    lstm = StatefulLSTM(hidden, hidden, 2, dtype=dtype).eval()
    lstm.allocate_state(batch).write(random_hx(lstm, batch))
    x = torch.randn(T, batch, hidden).to(dtype)
    with torch.inference_mode(), lstm.preserve_state():
        whole = feed(lstm, x, [0, T]) | states(lstm)
    with torch.no_grad():
        steps = feed(lstm, x, CUTS["steps"]) | states(lstm)
    assert_close(steps, whole, tolerance(dtype, 2 * T, 2 * hidden))


# One layer on an input of zeros: the library's product is exact, the rest is the kernels' work.


@pytest.mark.unsanitized("its bits or its accuracy are those of another compilation")
@pytest.mark.parametrize("config", [{}, {"bias": False}, {"proj_size": 3}], ids=str)
@dtypes
@cuts
def test_chunks_equal_one_call_bit_for_bit_where_only_the_kernels_work(config, dtype, cut):
    lstm, x = build(dtype, **config)
    with lstm.preserve_state():
        whole = feed(lstm, x * 0, [0, T], mask=MASK) | states(lstm)
    pieces = feed(lstm, x * 0, cut, mask=MASK) | states(lstm)
    for name in whole:
        assert pieces[name].equal(whole[name]), name


@pytest.mark.unsanitized("its bits or its accuracy are those of another compilation")
@dtypes
@pytest.mark.parametrize("proj", [0, 3])
def test_a_row_does_not_depend_on_its_neighbours_bit_for_bit(dtype, proj):
    lstm = StatefulLSTM(I, 21, proj_size=proj, dtype=dtype)
    lstm.allocate_state(8).write(random_hx(lstm, 8))
    x = torch.zeros(T, 8, I, dtype=dtype)
    with lstm.preserve_state():
        together, _ = lstm(x)
    for b in range(8):
        alone, _ = lstm(x[:, :1], state_indices=torch.tensor([b]))
        assert alone[:, 0].equal(together[:, b])


@configs
@dtypes
@cuts
@pytest.mark.parametrize("control", ["mask", "lengths", "both"])
def test_chunks_equal_one_call_with_resets_and_lengths(config, dtype, cut, control):
    lstm, x = build(dtype, **config)
    keywords = {}
    if control != "lengths":
        keywords["mask"] = MASK
    if control != "mask":
        keywords["lengths"] = LENGTHS
    with torch.no_grad():
        check(lstm, x, cut, **keywords)


@cuts
@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("with_mask", [False, True], ids=["", "resets"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_chunks_equal_one_call_with_slots(cut, kind, with_mask, training):
    lstm, x = build(num_layers=2)
    lstm.allocate_state(5).write(random_hx(lstm, 5))
    rows = torch.tensor([4, 0, 3], dtype=kind)
    before = states(lstm)
    with torch.set_grad_enabled(training):
        check(lstm, x, cut, state_indices=rows, mask=MASK if with_mask else None)
    for name, state in states(lstm).items():
        assert state[:, [1, 2]].equal(before[name][:, [1, 2]])
        assert not torch.isclose(state[:, [0, 3, 4]], before[name][:, [0, 3, 4]]).all()


def test_rows_may_change_places_between_chunks():
    lstm, x = build(num_layers=2)
    with lstm.preserve_state():
        whole = feed(lstm, x, [0, T]) | states(lstm)
    outputs = []
    for t in range(T):
        order = torch.randperm(B)
        output, _ = lstm(x[t : t + 1, order], state_indices=order)
        outputs.append(output[:, order.argsort()].detach())
    got = {"output": torch.cat(outputs), **states(lstm)}
    assert_close(got, {name: whole[name] for name in got}, bound(x.dtype))


def test_streams_in_slots_do_not_see_one_another():
    lstm, x = build(num_layers=2)
    alone = []
    for b in range(B):
        lstm.reset_state()
        alone.append(feed(lstm, x[:, b : b + 1], [0, T], state_indices=torch.tensor([b]))["output"])
    lstm.reset_state()
    together = [torch.zeros_like(alone[0]) for _ in range(B)]
    progress = [0] * B
    for turn in range(4 * T):  # each stream at its own pace
        ready = [b for b in range(B) if progress[b] < T and (turn + b) % (b + 1) == 0]
        if ready:
            step = torch.stack([x[progress[b], b] for b in ready])[None]
            output, _ = lstm(step, state_indices=torch.tensor(ready))
            for k, b in enumerate(ready):
                together[b][progress[b]] = output[0, k].detach()
                progress[b] += 1
    assert progress == [T] * B
    names = [str(b) for b in range(B)]
    assert_close(
        dict(zip(names, together, strict=True)),
        dict(zip(names, alone, strict=True)),
        bound(x.dtype),
    )


@dtypes
@cuts
def test_the_state_handed_on_as_hx_equals_the_resident_one(dtype, cut):
    lstm, x = build(dtype, num_layers=2)
    hx = lstm.state.h.clone(), lstm.state.c.clone().to(dtype)
    with torch.no_grad():
        resident = feed(lstm, x, cut)
        outputs = []
        for a, b in windows(cut):
            output, hx = lstm(x[a:b], hx)
            outputs.append(output)
    got = {"output": torch.cat(outputs), "h_n": hx[0], "c_n": hx[1]}
    assert_close(got, resident, bound(dtype))


def test_unbatched_chunks_equal_one_call():
    lstm = StatefulLSTM(I, H, 2, dtype=torch.float64)
    x = torch.randn(T, I).double()
    whole = lstm(x)[0]
    lstm.reset_state()
    pieces = torch.cat([lstm(x[a:b])[0] for a, b in windows(CUTS["uneven"])])
    assert_close({"output": pieces}, {"output": whole}, bound(x.dtype))


@cuts
def test_both_ways_the_forward_direction_alone_carries_on(cut):
    lstm, x = build(bidirectional=True)
    lstm.reset_state()
    weights, turned = dict(lstm.named_parameters()), {}
    for name, weight in weights.items():
        if name.endswith("_reverse"):
            turned[name.removesuffix("_reverse")] = weight
    forward, backward = nn.LSTM(I, H).double(), nn.LSTM(I, H).double()
    forward.load_state_dict({k: v for k, v in weights.items() if "reverse" not in k})
    backward.load_state_dict(turned)
    expected = [
        torch.cat([y, backward(x[a:b].flip(0))[0].flip(0) if b > a else y], -1)
        for (a, b), y in zip(
            windows(cut), forward(x)[0].split([b - a for a, b in windows(cut)]), strict=True
        )
    ]
    got = feed(lstm, x, cut)["output"]
    assert_close({"y": got}, {"y": torch.cat(expected).detach()}, bound(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dropout_aside_training_and_inference_agree(dtype):
    lstm, x = build(dtype, num_layers=3)
    with lstm.preserve_state():
        training = feed(lstm, x, CUTS["two"]) | states(lstm)
    with torch.inference_mode():
        inference = feed(lstm.eval(), x, CUTS["steps"]) | states(lstm)
    assert_close(inference, training, bound(dtype))


# ---- gradients -----------------------------------------------------------------------------------


def chained(lstm, x, hx, cut, mask=None, lengths=None, detach=False):
    """Gradients of a loss on all outputs and the last state, hx handed from call to call."""
    leaves = {"x": x, "h": hx[0], "c": hx[1], **dict(lstm.named_parameters())}
    for leaf in leaves.values():
        leaf.requires_grad_()
    outputs = []
    for a, b in windows(cut):
        output, hx = lstm(
            x[a:b],
            hx,
            reset_mask=None if mask is None else mask[a:b],
            lengths=None if lengths is None else (lengths - a).clamp(0, b - a),
        )
        outputs.append(output)
    ends = [torch.cat(outputs), *hx]
    seeds = [cotangent(t, k) for k, t in enumerate(ends)]
    return dict(zip(leaves, torch.autograd.grad(ends, list(leaves.values()), seeds), strict=True))


@configs
@cuts
@pytest.mark.parametrize("control", [{}, {"mask": MASK}, {"mask": MASK, "lengths": LENGTHS}],
                         ids=["", "resets", "resets-and-lengths"])  # fmt: skip
def test_gradients_through_chained_states_equal_one_calls(config, cut, control):
    lstm = StatefulLSTM(I, H, dtype=torch.float64, **config | {"batch_first": False})
    x, hx = torch.randn(T, B, I).double(), random_hx(lstm, B)
    got, whole = chained(lstm, x, hx, cut, **control), chained(lstm, x, hx, [0, T], **control)
    assert_close(got, whole, tolerance(x.dtype, 3 * T, 4 * H + T * B))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
def test_gradients_through_chained_states_in_lower_precision(dtype, recompute):
    lstm = StatefulLSTM(I, H, 2, dtype=dtype, recompute=recompute)
    x, hx = torch.randn(T, B, I).to(dtype), random_hx(lstm, B)
    got, whole = (chained(lstm, x, hx, cut, mask=MASK) for cut in (CUTS["uneven"], [0, T]))
    assert_close(got, whole, tolerance(dtype, 2 * T, 4 * H + T * B))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_through_the_chained_function_equal_one_calls(backend):
    net = nn.LSTM(I, H, 2, proj_size=3, dtype=torch.float64)
    x, hx = torch.randn(T, B, I).double(), random_hx(net, B)
    weights = list(net.parameters())
    keywords = settings(net) | {"backend": backend}

    def grads(cut):
        state, outputs = hx, []
        for a, b in windows(cut):
            output, state = stateful_lstm.lstm(x[a:b], state, weights, **keywords)
            outputs.append(output)
        loss = torch.cat(outputs).pow(2).sum() + state[0].sum() + state[1].pow(2).sum()
        return dict(enumerate(torch.autograd.grad(loss, weights)))

    assert_close(grads(CUTS["uneven"]), grads([0, T]), tolerance(x.dtype, 2 * T, 4 * H + T * B))


def test_gradients_stop_at_the_resident_state():
    lstm, x = build(num_layers=2)
    first = x[:4].clone().requires_grad_()
    lstm(first)
    before = states(lstm)
    output, (h, c) = lstm(x[4:])
    (output.sum() + h.sum() + c.sum()).backward()
    assert first.grad is None
    got = {n: w.grad.clone() for n, w in lstm.named_parameters()}
    lstm.zero_grad()
    output, (h, c) = lstm(x[4:], (before["h"], before["c"]))
    (output.sum() + h.sum() + c.sum()).backward()
    expected = {n: w.grad for n, w in lstm.named_parameters()}
    assert_close(got, expected, tolerance(x.dtype, 2 * T, 4 * H + T * B))


@dtypes
@pytest.mark.parametrize("config", [{}, {"proj_size": 3}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 50), (1, 17, 33), (6, 1, 9), (6, 5, 16), (6, 17, 50)])
def test_nan_that_an_earlier_call_left_in_memory_reaches_nothing(sizes, dtype, config):
    # Rows and columns are filled up, and the memory of a call is the next one's.
    steps, rows, units = sizes
    torch.manual_seed(0)
    lstm = StatefulLSTM(units + 2, units, dtype=dtype, **config)
    x = torch.randn(steps, rows, units + 2, dtype=dtype)

    def everything(x):
        x = x.clone().requires_grad_()
        output, (h, c) = lstm(x)
        (output.sum() + h.sum() + c.sum()).backward()
        grads = [x.grad, *(w.grad for w in lstm.parameters())]
        lstm.zero_grad()
        with torch.no_grad():
            more = lstm(x)[0]  # on a state that is there
        lstm.reset_state()
        return [output.detach(), h.detach(), c.detach(), more, *grads]

    before = everything(x)
    assert everything(torch.full_like(x, torch.nan))[0].isnan().any()
    for after, expected in zip(everything(x), before, strict=True):
        assert same_bits(after, expected)
