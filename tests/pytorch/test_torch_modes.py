"""torch's modes around the layer: autocast, scaled gradients, determinism, int8."""

from __future__ import annotations

import copy

import pytest
import torch
from state_support import assert_unmoved, close, make, noise, plain, same_bits, snapshot
from torch import nn

from stateful_lstm import StatefulLSTM, convert

T, B, INPUT, H = 4, 2, 3, 5
HALVES = [torch.bfloat16, torch.float16]


def dtypes(out):
    y, (h, c) = out
    return y.dtype, h.dtype, c.dtype


# nn.LSTM's own answer to float32 depends on whether it goes to oneDNN; here it does.
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN")
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("half", HALVES)
def test_autocast_gives_the_dtypes_that_nn_lstm_gives(half, train, stateful):
    lstm = make(dtype=torch.float32, num_layers=2, stateful=stateful)
    oracle = plain(lstm)
    zeros = (torch.zeros(2, B, H),) * 2
    for dtype in (torch.float32, half):  # half: what a layer before this one made
        for hx in (None, zeros, tuple(t.to(half) for t in zeros)):
            x = noise(T, B, INPUT, dtype=dtype)
            with torch.set_grad_enabled(train), torch.autocast("cpu", half):
                found = lstm(x, hx)
                try:
                    expected = dtypes(oracle(x, hx))
                except RuntimeError:  # oneDNN lacks this type on this processor
                    expected = (half,) * 3
            if dtype == half and hx is not None and hx[0].dtype != half:
                # Without oneDNN's kernel, nn.LSTM answers such a mix in float32.
                assert expected in ((half,) * 3, (torch.float32,) * 3)
                expected = (half,) * 3
            assert dtypes(found) == expected


# What oneDNN has no part in: the same on every processor.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("proj_size", [0, 4])
@pytest.mark.parametrize("half", HALVES)
def test_autocast_of_packed_sequences_and_projections(half, proj_size, stateful):
    """Of every mix of dtypes that goes in, the other 16-bit one included, nn.LSTM's come out."""
    for own in (torch.float32, half):
        lstm = make(dtype=own, num_layers=2, proj_size=proj_size, stateful=stateful)
        oracle = plain(lstm)
        shapes = (2, B, proj_size or H), (2, B, H)
        for dtype in (torch.float32, *HALVES):
            x = noise(T, B, INPUT, dtype=dtype)
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]))
            for given in (packed, x) if proj_size else (packed,):
                for kind in (None, torch.float32, *HALVES):
                    hx = None if kind is None else tuple(torch.zeros(s, dtype=kind) for s in shapes)
                    lstm.reset_state()
                    with torch.no_grad(), torch.autocast("cpu", half):
                        found, expected = lstm(given, hx), oracle(given, hx)
                    if given is packed:
                        found, expected = ((y.data, hc) for y, hc in (found, expected))
                    assert dtypes(found) == dtypes(expected)


@pytest.mark.parametrize("stateful", [False, True])
def test_a_default_device_is_not_that_of_a_packed_sequence(stateful):
    lstm, x = make(stateful=stateful), noise(T, B, INPUT)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 4]), enforce_sorted=False)
    expected = plain(lstm)(packed)
    with torch.device("meta"):
        found = lstm(packed)
    close((found[0].data, found[1]), (expected[0].data, expected[1]))


@pytest.mark.parametrize("half", HALVES)
def test_autocast_computes_in_its_dtype_and_keeps_parameters_and_state_wide(half):
    lstm = make(dtype=torch.float32, num_layers=2)
    narrow = copy.deepcopy(lstm).to(half)
    for k in range(2):
        x = noise(T, B, INPUT, seed=k, dtype=torch.float32)
        with torch.autocast("cpu", half):
            y, _ = lstm(x)
        close(y, narrow(x.to(half))[0])
        y.float().square().sum().backward()
    assert lstm.state.h.dtype == lstm.state.c.dtype == torch.float32
    close(lstm.state.h, narrow.state.h.float())
    close(lstm.state.c, narrow.state.c)
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in lstm.parameters())


def test_autocast_leaves_float64_alone_and_does_not_mix_it():
    lstm, x = make(), noise(T, B, INPUT)
    expected = copy.deepcopy(lstm)(x)
    with torch.autocast("cpu", torch.bfloat16):
        close(lstm(x), expected)
        before = snapshot(lstm.state)
        with pytest.raises(ValueError, match=r"float32.* does not match weight dtype .*float64"):
            lstm(x.float())
        assert_unmoved(before, lstm.state)
        with pytest.raises(ValueError, match=r"float64.* does not match weight dtype .*float32"):
            make(dtype=torch.float32)(x)


def test_a_disabled_autocast_inside_is_obeyed():
    lstm, x = make(dtype=torch.float32), noise(T, B, INPUT, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert lstm(x)[0].dtype == torch.float32


@pytest.mark.parametrize("overflow", [False, True])
def test_a_grad_scaler_scales_and_skips(overflow):
    lstm, head = make(dtype=torch.float32), nn.Linear(H, 1)
    exact = copy.deepcopy(nn.ModuleList([lstm, head]))
    own = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(own, lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40 if overflow else 256.0)
    before = [p.detach().clone() for p in own]
    x = noise(T, B, INPUT, dtype=torch.float32)
    with torch.autocast("cpu", torch.float16):
        y, _ = lstm(x)
        loss = head(y).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    moved = [not torch.equal(a, b) for a, b in zip(own, before, strict=True)]
    if overflow:
        assert not any(moved) and scaler.get_scale() < 2.0**40
        return
    exact[1](exact[0](x)[0]).square().mean().backward()
    for ours, old, p in zip(own, before, exact.parameters(), strict=True):
        close((old - ours) / 0.5, p.grad, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize("train", [False, True])
def test_deterministic_algorithms_are_all_there_are(train):
    """All ways through the layer, twice, with what torch does for itself in between."""

    def run():
        torch.manual_seed(5)
        lstm = make(dtype=torch.float32, num_layers=2, bidirectional=True, recurrent_dropout=0.3)
        lstm.allocate_state(4)
        out = []
        for k in range(3):
            x = noise(T, B, INPUT, seed=k, dtype=torch.float32)
            slots = torch.tensor([3, k])
            lengths, resets = torch.tensor([4, k]), noise(T, B, seed=k) > 1
            with torch.set_grad_enabled(train):
                y, hc = lstm(x, reset_mask=resets, lengths=lengths, state_indices=slots)
            out += [y.detach(), *(t.detach() for t in hc)]
            if train:
                out += torch.autograd.grad(y.square().sum(), lstm.parameters())
            lstm.reset_state(torch.tensor([k]))
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]))
        lstm.reset_state()
        lstm.allocate_state(B)
        with torch.set_grad_enabled(train):
            out.append(lstm(packed)[0].data.detach())
        return out + list(lstm.state.read())

    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(), run()
    finally:
        torch.use_deterministic_algorithms(was)
    assert all(same_bits(a, b) for a, b in zip(first, second, strict=True))


# torch says itself that this quantisation is on its way out.
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quanti:UserWarning")
def test_dynamic_quantisation_leaves_the_layer_as_it_is():
    torch.manual_seed(0)
    model = nn.ModuleDict({"lstm": nn.LSTM(INPUT, H), "head": nn.Linear(H, 2)})
    convert(model, stateful=False)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, StatefulLSTM, nn.Linear})
    assert type(quantised["lstm"]) is StatefulLSTM
    assert type(quantised["head"]) is not nn.Linear
    x = noise(T, B, INPUT, dtype=torch.float32)
    close(quantised["lstm"](x), model["lstm"](x))


class Model(nn.Module):
    """A layer in the midst of another module's work."""

    def __init__(self, stateful):
        super().__init__()
        self.blocks = nn.ModuleList([make(dtype=torch.float32, stateful=stateful)])

    def forward(self, x, reset_mask, hx=None):
        y, (h, c) = self.blocks[0](x * 2, hx, reset_mask=reset_mask)
        return y.relu(), h + c


@pytest.mark.parametrize("stateful", [False, True])
def test_torch_fx_takes_the_layer_as_one_of_torchs_own(stateful):
    model = Model(stateful)
    graph = torch.fx.symbolic_trace(model)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["blocks.0"]
    assert graph.get_submodule("blocks.0") is model.blocks[0]
    expected = copy.deepcopy(model)
    x, resets = noise(T, B, INPUT, dtype=torch.float32), noise(T, B) > 0.5
    for k in range(2):
        close(graph(x + k, resets), expected(x + k, resets))
    hx = (torch.randn(1, B, H), torch.randn(1, B, H))
    close(graph(x, resets, hx), expected(x, resets, hx))


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torch_jit_script_is_refused_by_name(stateful):
    with pytest.raises(RuntimeError, match=r"StatefulLSTM: use torch\.compile; or.*torch\.export"):
        torch.jit.script(Model(stateful))


def test_float16_on_the_cpu_is_nearer_to_the_truth_than_it_need_be():
    """It is computed in float32: what is rounded is what goes in and comes out."""
    exact = make(num_layers=2, bidirectional=True, stateful=False)
    half = copy.deepcopy(exact).to(torch.float16)
    exact = copy.deepcopy(half).double()
    x = noise(30, B, INPUT, dtype=torch.float16).requires_grad_()
    wide = x.detach().double().requires_grad_()
    (y, hc), (expected, truth) = half(x), exact(wide)
    assert dtypes((y, hc)) == (torch.float16,) * 3
    close(y.double(), expected, rtol=2**-10, atol=1e-4)
    close([t.double() for t in hc], list(truth), rtol=2**-10, atol=1e-4)
    y.double().square().sum().backward()
    expected.square().sum().backward()
    close(x.grad.double(), wide.grad, rtol=2e-3, atol=2e-3)
    for one, other in zip(half.parameters(), exact.parameters(), strict=True):
        close(one.grad.double(), other.grad, rtol=2e-3, atol=2e-3)
