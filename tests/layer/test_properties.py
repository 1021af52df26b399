"""Random combinations of all features, against the oracle and the reference."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from comparisons import DTYPES, assert_close, oracle, results, tolerance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

bounded = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Case:
    """A network, an input and the controls; everything time-major but what the call is given."""

    net: nn.LSTM
    x: Tensor
    hx: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    lengths: Tensor | None

    @property
    def shape(self) -> dict:
        names = ("num_layers", "bias", "bidirectional", "proj_size")
        return {name: getattr(self.net, name) for name in names}

    @property
    def bound(self) -> float:
        steps, batch, inputs = self.x.shape
        width = inputs + 4 * self.net.hidden_size + steps * batch
        return tolerance(self.x.dtype, self.net.num_layers * max(steps, 1), width)

    @property
    def controls(self) -> dict:
        """The keywords of a call, in the layout that the network wants."""
        mask = self.turn(self.mask) if self.mask is not None else None
        return {"reset_mask": mask, "lengths": self.lengths}

    def turn(self, t: Tensor) -> Tensor:
        return t.transpose(0, 1) if self.net.batch_first else t

    def oracle(self, x, hx, weights):
        masks = {"reset_mask": self.mask, "lengths": self.lengths}
        return oracle(x, hx, list(weights.values()), **self.shape, **masks)

    def truth(self, hx, rows=slice(None)) -> dict:
        """The oracle's outputs of some rows from hx, and their gradients, in float64."""
        weights = {k: w.detach().double().requires_grad_() for k, w in self.net.named_parameters()}
        hx = None if hx is None else tuple(t.double() for t in hx)
        call = of_rows(rows, lambda x, hx: self.oracle(x, hx, weights))
        return results(call, self.x.double(), hx, weights)

    def values(self, hx) -> dict:
        """The oracle's outputs alone."""
        weights = {k: w.detach().double() for k, w in self.net.named_parameters()}
        output, (h, c) = self.oracle(self.x.double(), tuple(t.double() for t in hx), weights)
        return {"output": output, "h_n": h, "c_n": c}


def of_rows(rows, call):
    """call, but what it returns is of some rows only."""

    def chosen(x, hx):
        output, (h, c) = call(x, hx)
        return output[:, rows], (h[:, rows], c[:, rows])

    return chosen


def numbers(draw, *shape):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    return torch.randn(*shape, generator=generator)


@st.composite
def cases(draw, directions=(1, 2), dtypes=tuple(DTYPES), most_steps=6, bare=False):
    steps, batch = draw(st.integers(1, most_steps)), draw(st.integers(1, 5))
    hidden = draw(st.sampled_from([1, 2, 3, 8, 9, 17]))
    proj = draw(st.integers(0, hidden - 1)) if draw(st.booleans()) else 0
    dtype = draw(st.sampled_from(dtypes))
    net = nn.LSTM(
        draw(st.integers(1, 5)),
        hidden,
        num_layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.sampled_from(directions)) == 2,
        proj_size=proj,
        dtype=dtype,
    )
    with torch.no_grad():  # drawn, since the initial values depend on what ran before
        for weight in net.parameters():
            weight.copy_(numbers(draw, *weight.shape) / (1 + weight.shape[-1]) ** 0.5)
    x = numbers(draw, steps, batch, net.input_size).to(dtype)
    stacks = net.num_layers * (2 if net.bidirectional else 1)
    hx = None
    if not bare and draw(st.booleans()):
        hx = tuple(numbers(draw, stacks, batch, n).to(dtype) for n in (proj or hidden, hidden))
    mask = lengths = None
    if draw(st.booleans()):
        row = st.lists(st.booleans(), min_size=batch, max_size=batch)
        mask = torch.tensor(draw(st.lists(row, min_size=steps, max_size=steps)))
    if not bare and draw(st.booleans()):
        each = st.one_of(st.just(0), st.just(steps), st.integers(0, steps))
        lengths = torch.tensor(draw(st.lists(each, min_size=batch, max_size=batch)))
    return Case(net, x, hx, mask, lengths)


def compute(case, call, x=None, rows=slice(None)):
    """The results of call(x, hx) on a case, in time-major order."""

    def turned(x, hx):
        output, states = call(case.turn(x), hx)
        return case.turn(output), states

    weights = dict(case.net.named_parameters())
    return results(of_rows(rows, turned), case.x if x is None else x, case.hx, weights)


def function(case, backend, **extras):
    weights = list(case.net.parameters())
    keywords = case.shape | case.controls | {"batch_first": case.net.batch_first} | extras
    return lambda x, hx: stateful_lstm.lstm(x, hx, weights, backend=backend, **keywords)


def layer_like(net, **extras):
    """A StatefulLSTM on the very parameters of a net, so that gradients reach them."""
    layer = StatefulLSTM(
        net.input_size,
        net.hidden_size,
        net.num_layers,
        net.bias,
        net.batch_first,
        bidirectional=net.bidirectional,
        proj_size=net.proj_size,
        dtype=next(net.parameters()).dtype,
        **extras,
    )
    for name, weight in net.named_parameters():
        setattr(layer, name, weight)
    return layer


@given(cases(dtypes=(torch.float64,)))
@bounded
def test_the_reference_equals_the_oracle(case):
    assert_close(compute(case, function(case, "reference")), case.truth(case.hx), case.bound)


@given(cases(), st.sampled_from(["none", "gates", "segments", "auto"]))
@bounded
def test_the_cpu_backend_equals_the_oracle(case, recompute):
    got = compute(case, function(case, "cpu", recompute=recompute))
    assert_close(got, case.truth(case.hx), case.bound)


@given(cases(dtypes=(torch.float64, torch.float32)), st.integers(0, 99), st.floats(0.1, 0.9))
@bounded
def test_the_cpu_backend_equals_the_reference_under_dropout(case, seed, p):
    extras = {"training": True, "dropout": 1 - p, "recurrent_dropout": p}
    torch.manual_seed(seed)
    truth = compute(case, function(case, "reference", **extras))
    torch.manual_seed(seed)
    got = compute(case, function(case, "cpu", **extras))
    assert_close(got, truth, 4 * case.bound / ((1 - p) * p))  # dropout scales what it keeps


@given(cases())
@bounded
def test_a_layer_without_state_equals_the_oracle(case):
    layer = layer_like(case.net, stateful=False)
    got = compute(case, lambda x, hx: layer(x, hx, **case.controls))
    assert_close(got, case.truth(case.hx), case.bound)


@given(cases(dtypes=(torch.float64, torch.float32)))
@bounded
def test_what_lies_beyond_the_lengths_is_never_read(case):
    if case.lengths is None:
        case.lengths = torch.zeros(case.x.shape[1], dtype=torch.int64)
    padding = torch.arange(case.x.shape[0])[:, None] >= case.lengths
    dirty = case.x.masked_fill(padding[..., None], float("nan"))
    clean = compute(case, function(case, "cpu"))
    assert_close(compute(case, function(case, "cpu"), dirty), clean, 0.0)
    assert clean["output"][padding].count_nonzero() == 0


# ---- the resident state --------------------------------------------------------------------------


def random_state(layer, slots, draw):
    h, c = layer.allocate_state(slots).read()
    state = numbers(draw, *h.shape).to(h.dtype), numbers(draw, *c.shape).to(c.dtype)
    layer.state.write(state)
    return state


def draw_slots(case, layer, draw):
    """A slot or -1 for each row, and which slots are taken; all else that exists is made NaN.

    Returns the rows' slots, the mask of rows that have one, that of slots that are taken, and
    the input.
    """
    batch = case.x.shape[1]
    slots = batch + draw(st.integers(0, 3), label="spare slots")
    order = draw(st.permutations(range(slots)), label="order")[:batch]
    absent = draw(st.lists(st.booleans(), min_size=batch, max_size=batch), label="absent")
    kind = draw(st.sampled_from([torch.int32, torch.int64]))
    rows = [-1 if gone else slot for slot, gone in zip(order, absent, strict=True)]
    random_state(layer, slots, draw)
    taken = torch.tensor([slot in rows for slot in range(slots)])
    layer.state.h[:, ~taken] = layer.state.c[:, ~taken] = float("nan")
    present = ~torch.tensor(absent)
    dirty = case.x.masked_fill(~present[:, None], float("nan"))
    return torch.tensor(rows, dtype=kind), present, taken, dirty


def start_of(layer, rows):
    """What a call without hx starts from: the slots of its rows, and zero in reverse."""
    h, c = (t[:, rows.clamp(min=0).long()] for t in (layer.state.h, layer.state.c))
    if layer.bidirectional:
        h[1::2] = c[1::2] = 0
    return h.nan_to_num(), c.nan_to_num()  # for padding rows anything will do


def check_slots(case, data, inference):
    """A call with slots: right in the rows that have one, and the other slots left alone."""
    layer = layer_like(case.net)
    rows, present, taken, x = draw_slots(case, layer, data.draw)
    truth = case.values(case.hx or start_of(layer, rows))
    with torch.inference_mode(inference):
        output, (h_n, c_n) = layer(case.turn(x), case.hx, state_indices=rows, **case.controls)
    output = case.turn(output)
    got = {"output": output, "h_n": h_n, "c_n": c_n}
    truth = {name: t[:, present] for name, t in truth.items()}
    assert_close({name: t[:, present] for name, t in got.items()}, truth, case.bound)
    assert output[:, ~present].count_nonzero() == 0

    forward = slice(None, None, 2 if layer.bidirectional else 1)
    for name, after in (("h", layer.state.h), ("c", layer.state.c)):
        assert after[:, ~taken].isnan().all(), name
        new = {name: after[forward][:, rows[present].long()]}
        assert_close(new, {name: truth[f"{name}_n"][forward]}, case.bound)


@given(cases(), st.data(), st.booleans())
@bounded
def test_slots_equal_the_oracle_and_leave_the_others_alone(case, data, inference):
    check_slots(case, data, inference)


@given(cases(most_steps=4, bare=True), st.data())
@bounded
def test_a_few_steps_in_inference_equal_the_oracle(case, data):
    check_slots(case, data, inference=True)


@given(cases(dtypes=(torch.float64, torch.float32)), st.data())
@bounded
def test_gradients_with_slots_equal_the_oracles(case, data):
    layer = layer_like(case.net)
    rows, present, _, x = draw_slots(case, layer, data.draw)
    truth = case.truth(case.hx or start_of(layer, rows), present)
    if case.hx is None:
        del truth["gradient of h_0"], truth["gradient of c_0"]
    call = lambda x, hx: layer(x, hx, state_indices=rows, **case.controls)  # noqa: E731
    got = compute(case, call, x, present)
    assert_close(got, truth, case.bound)
    assert got["gradient of input"][:, ~present].count_nonzero() == 0


@given(cases(directions=(1,), most_steps=8), st.data())
@bounded
def test_any_cut_into_calls_equals_one(case, data):
    steps, batch, _ = case.x.shape
    inner = data.draw(st.lists(st.integers(0, steps), max_size=4).map(sorted), label="cuts")
    cut = [0, *inner, steps]
    layer = layer_like(case.net).requires_grad_(False)
    start = random_state(layer, batch, data.draw)
    truth = case.values(start)
    outputs = []
    for a, b in itertools.pairwise(cut):
        mask = None if case.mask is None else case.turn(case.mask[a:b])
        lengths = None if case.lengths is None else (case.lengths - a).clamp(0, b - a)
        output, (h, c) = layer(case.turn(case.x[a:b]), reset_mask=mask, lengths=lengths)
        outputs.append(case.turn(output))
    got = {"output": torch.cat(outputs), "h_n": h, "c_n": c}
    assert_close(got, truth, case.bound)
    resident = {"h_n": layer.state.h, "c_n": layer.state.c}
    assert_close(resident, {name: truth[name] for name in resident}, case.bound)
