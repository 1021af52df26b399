"""reference.lstm and the cpu backend against the oracle."""

import copy

import pytest
import torch
from comparisons import (
    DTYPES,
    MARKS,
    assert_close,
    module_results,
    oracle,
    random_hx,
    tolerance,
)
from reference_support import (
    CLOSE,
    CONFIGS,
    CONTROLS,
    IMPLEMENTATIONS,
    LENGTHS,
    RESETS,
    B,
    H,
    T,
    build,
    compute,
    configs,
    controls,
    cpu,
    implementations,
    shape_of,
)
from torch import nn

from stateful_lstm import reference

pytestmark = MARKS


# ---- against the oracle --------------------------------------------------------------------------


@configs
def test_the_oracle_agrees_with_nn_lstm(config):
    net, x, hx = build(**config)
    truth = module_results(net, x, hx)
    assert_close(compute(oracle, net, x, hx, **shape_of(net)), truth, CLOSE)


@configs
@controls
@implementations
def test_equals_the_oracle(lstm, config, control):
    net, x, hx = build(**config)
    truth = compute(oracle, net, x, hx, **shape_of(net), **control)
    assert_close(compute(lstm, net, x, hx, **shape_of(net), **control), truth, CLOSE)


@configs
@implementations
def test_equals_the_oracle_without_hx(lstm, config):
    net, x, _ = build(**config)
    control = CONTROLS["resets-and-lengths"]
    truth = compute(oracle, net, x, None, **shape_of(net), **control)
    assert_close(compute(lstm, net, x, None, **shape_of(net), **control), truth, CLOSE)


@pytest.mark.parametrize("hidden", [1, 8, 17, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 5, 19])
def test_resets_and_lengths_of_the_cpu_backend_over_sizes(hidden, dtype, batch):
    net = nn.LSTM(3, hidden, 2, bidirectional=True, dtype=dtype)
    x, hx = torch.randn(T, batch, 3).to(dtype), random_hx(net, batch)
    control = {
        "reset_mask": torch.rand(T, batch) < 0.3,
        "lengths": torch.randint(0, T + 1, (batch,)),
    }
    truth = compute(
        reference.lstm,
        copy.deepcopy(net).double(),
        x.double(),
        tuple(t.double() for t in hx),
        **shape_of(net),
        **control,
    )
    bound = tolerance(dtype, 2 * T, 4 * hidden + T * batch)
    assert_close(compute(cpu, net, x, hx, **shape_of(net), **control), truth, bound)


@implementations
def test_batch_first_turns_the_input_and_the_mask(lstm):
    net, x, hx = build(num_layers=2)
    y, (h, c) = lstm(x, hx, list(net.parameters()), num_layers=2, **CONTROLS["resets-and-lengths"])
    got, (h_n, c_n) = lstm(
        x.transpose(0, 1),
        hx,
        list(net.parameters()),
        num_layers=2,
        batch_first=True,
        reset_mask=RESETS.t(),
        lengths=LENGTHS,
    )
    assert_close({"y": got.transpose(0, 1), "h": h_n, "c": c_n}, {"y": y, "h": h, "c": c}, CLOSE)


@implementations
def test_an_unbatched_call_is_a_batch_of_one(lstm):
    net, x, (h_0, c_0) = build(bidirectional=True)
    weights = list(net.parameters())
    one = {"bidirectional": True, "reset_mask": RESETS[:, :1]}
    y, (h, c) = lstm(x[:, :1], (h_0[:, :1], c_0[:, :1]), weights, **one)
    one["reset_mask"] = RESETS[:, 0]
    got, (h_n, c_n) = lstm(x[:, 0], (h_0[:, 0], c_0[:, 0]), weights, **one)
    assert_close({"y": got, "h": h_n, "c": c_n}, {"y": y[:, 0], "h": h[:, 0], "c": c[:, 0]}, CLOSE)


# ---- what resets and lengths promise -------------------------------------------------------------


@implementations
@pytest.mark.parametrize("config", [{}, {"num_layers": 2}, {"proj_size": 2}], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_nan_in_the_old_state_does_not_survive_a_reset(lstm, config, poison):
    net, x, hx = build(**config)
    mask = RESETS.clone()
    mask[0] = True
    bad = tuple(torch.full_like(t, poison) for t in hx)
    truth = compute(lstm, net, x, None, **config, reset_mask=mask)
    got = compute(lstm, net, x, bad, **config, reset_mask=mask)
    for state in ("h_0", "c_0"):
        assert got.pop(f"gradient of {state}").count_nonzero() == 0
    assert_close(got, truth, CLOSE)


@implementations
def test_a_nan_on_the_way_does_not_survive_a_reset(lstm):
    net, x, hx = build(num_layers=2, bidirectional=True)
    mask = torch.zeros(T, B, dtype=torch.bool)
    mask[3] = True
    bad = x.clone()
    bad[1] = float("nan")
    weights = list(net.parameters())[: len(list(net.parameters())) // 2]
    keywords = {"bidirectional": True, "reset_mask": mask}
    hx = tuple(t[:2] for t in hx)
    clean, dirty = (lstm(i, hx, weights, **keywords)[0] for i in (x, bad))
    assert dirty[0, :, :H].isfinite().all()  # before it, forwards
    assert dirty[1:3, :, :H].isnan().all()
    assert dirty[:2, :, H:].isnan().all()
    torch.testing.assert_close(dirty[3:], clean[3:], rtol=0, atol=0)
    torch.testing.assert_close(dirty[2, :, H:], clean[2, :, H:], rtol=0, atol=0)


@implementations
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_no_gradient_crosses_a_reset(lstm, config):
    net, x, hx = build(**config)
    x.requires_grad_()
    for state in hx:
        state.requires_grad_()
    mask = torch.zeros(T, B, dtype=torch.bool)
    mask[3, 1] = True
    y, _ = lstm(x, hx, list(net.parameters()), **config, reset_mask=mask)
    late, early = torch.zeros_like(y), torch.zeros_like(y)
    late[3:], early[:3] = 1, 1
    gx, gh, gc = torch.autograd.grad(y, [x, *hx], late, retain_graph=True)
    assert gx[:3, 1].count_nonzero() == 0
    assert gx[3:, 1].count_nonzero() == gx[3:, 1].numel()
    assert gx[:3, 0].count_nonzero() == gx[:3, 0].numel()
    forward = slice(None, None, 2 if net.bidirectional else 1)
    assert gh[forward, 1].count_nonzero() == gc[forward, 1].count_nonzero() == 0
    gx, gh, gc = torch.autograd.grad(y, [x, *hx], early)
    assert gx[3:, 1].count_nonzero() == 0
    assert gh[forward, 1].count_nonzero() == gh[forward, 1].numel()
    if net.bidirectional:
        assert gh[1::2, 1].count_nonzero() == gc[1::2, 1].count_nonzero() == 0


@implementations
@configs
@pytest.mark.parametrize("control", ["lengths", "resets-and-lengths"])
def test_nothing_beyond_the_lengths_is_read(lstm, config, control):
    net, x, hx = build(**config)
    padding = torch.arange(T)[:, None] >= LENGTHS
    dirty = x.masked_fill(padding[..., None], float("nan"))
    truth = compute(lstm, net, x, hx, **config, **CONTROLS[control])
    got = compute(lstm, net, dirty, hx, **config, **CONTROLS[control])
    assert_close(got, truth, 0.0)
    assert got["output"][padding].count_nonzero() == 0
    assert got["gradient of input"][padding].count_nonzero() == 0


@implementations
@configs
def test_a_row_of_length_zero_keeps_its_state(lstm, config):
    net, x, hx = build(**config)
    got = compute(lstm, net, x, hx, **config, **CONTROLS["resets-and-lengths"])
    assert got["h_n"][:, 1].equal(hx[0][:, 1])
    assert got["c_n"][:, 1].equal(hx[1][:, 1])


@implementations
@configs
def test_lengths_all_zero(lstm, config):
    net, x, hx = build(**config)
    none = torch.zeros(B, dtype=torch.int64)
    got = compute(lstm, net, x * float("nan"), hx, **config, lengths=none)
    assert got["output"].count_nonzero() == 0
    assert got["h_n"].equal(hx[0]) and got["c_n"].equal(hx[1])
    for name in ("input", *dict(net.named_parameters())):
        assert got[f"gradient of {name}"].count_nonzero() == 0, name


@implementations
@configs
def test_empty_controls_change_nothing(lstm, config):
    net, x, hx = build(**config)
    control = {
        "reset_mask": torch.zeros(T, B, dtype=torch.bool),
        "lengths": torch.full((B,), T),
    }
    truth = compute(lstm, net, x, hx, **config)
    assert_close(compute(lstm, net, x, hx, **config, **control), truth, CLOSE)


@implementations
def test_controls_of_any_layout(lstm):
    net, x, hx = build(num_layers=2)
    truth = compute(lstm, net, x, hx, num_layers=2, **CONTROLS["resets-and-lengths"])
    control = {
        "reset_mask": RESETS.t().contiguous().t(),
        "lengths": LENGTHS.repeat_interleave(2)[::2],
    }
    got = compute(lstm, net, x, hx, num_layers=2, **control)
    assert_close(got, truth, CLOSE)
    control["reset_mask"] = RESETS[:, :1].expand(T, B)
    truth = compute(lstm, net, x, hx, num_layers=2, reset_mask=RESETS[:, :1].repeat(1, B))
    got = compute(lstm, net, x, hx, num_layers=2, reset_mask=control["reset_mask"])
    assert_close(got, truth, CLOSE)


BAD_CONTROLS = {
    "integer mask": ({"reset_mask": RESETS.long()}, TypeError),
    "float mask": ({"reset_mask": RESETS.double()}, TypeError),
    "byte mask": ({"reset_mask": RESETS.byte()}, TypeError),
    "transposed mask": ({"reset_mask": RESETS.t()}, (ValueError, RuntimeError)),
    "mask of rank 1": ({"reset_mask": RESETS[:, 0]}, (ValueError, RuntimeError)),
    "short mask": ({"reset_mask": RESETS[1:]}, (ValueError, RuntimeError)),
    "mask elsewhere": ({"reset_mask": RESETS.to("meta")}, (ValueError, RuntimeError)),
    "too few lengths": ({"lengths": LENGTHS[1:]}, (ValueError, RuntimeError)),
    "lengths of rank 2": ({"lengths": LENGTHS[None]}, (ValueError, RuntimeError)),
    "float lengths": ({"lengths": LENGTHS.double()}, TypeError),
    "too long": ({"lengths": LENGTHS + 1}, (ValueError, RuntimeError)),
    "negative length": ({"lengths": LENGTHS - 1}, (ValueError, RuntimeError)),
}


@implementations
@pytest.mark.parametrize("case", BAD_CONTROLS)
def test_bad_controls_are_refused(lstm, case):
    net, x, hx = build()
    control, kind = BAD_CONTROLS[case]
    with pytest.raises(kind, match=next(iter(control))):
        lstm(x, hx, list(net.parameters()), **control)


# ---- recurrent dropout ---------------------------------------------------------------------------


@implementations
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_dropout_keeps_one_scaled_mask_per_row(lstm, directions):
    # With every weight 0 but h -> g, and c_0 = 0:  c_t = c_{t-1} / 2 + tanh(m * h_{t-1}) / 2,
    # so m * h can be read off c, and c off h:  h_t = tanh(c_t) / 2.
    steps, batch, hidden, p = 5, 40, 8, 0.25
    w_hh = torch.zeros(4 * hidden, hidden, dtype=torch.float64)
    w_hh[2 * hidden : 3 * hidden] = torch.eye(hidden, dtype=torch.float64)
    weights = [torch.zeros(4 * hidden, 1).double(), w_hh] * directions
    x = torch.zeros(steps, batch, 1, dtype=torch.float64)
    h_0 = 0.5 + torch.rand(directions, batch, hidden, dtype=torch.float64)
    keywords = {"bias": False, "bidirectional": directions == 2, "recurrent_dropout": p}
    y, _ = lstm(x, (h_0, torch.zeros_like(h_0)), weights, training=True, **keywords)
    sides = [y[..., :hidden], y[..., hidden:].flip(0)][:directions]
    masks = []
    for k, side in enumerate(sides):
        c = torch.cat([torch.zeros_like(h_0[k])[None], (2 * side).atanh()])
        h = torch.cat([h_0[k][None], side])[:-1]
        product = (2 * c[1:] - c[:-1]).atanh()
        kept = product[0] / h[0] > 0.5
        torch.testing.assert_close(product, h * (kept.double() / (1 - p)), rtol=0, atol=1e-12)
        masks.append(kept)
        n = kept.numel()
        assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    assert not masks[0].equal(masks[-1]) or directions == 1
    assert len(masks[0].unique(dim=0)) > batch // 2  # rows draw their own


@implementations
def test_recurrent_dropout_only_in_training(lstm):
    net, x, hx = build(num_layers=2)
    before = torch.get_rng_state()
    got = compute(lstm, net, x, hx, num_layers=2, recurrent_dropout=0.5)
    assert torch.get_rng_state().equal(before)
    assert_close(got, compute(lstm, net, x, hx, num_layers=2), CLOSE)


@configs
@controls
@pytest.mark.parametrize("name", ["backend=reference", "backend=cpu"])
def test_all_backends_draw_the_same_dropout(config, control, name):
    net, x, hx = build(**config)
    keywords = config | control | {"training": True, "dropout": 0.3, "recurrent_dropout": 0.4}
    torch.manual_seed(1)
    truth = compute(reference.lstm, net, x, hx, **keywords)
    left = torch.get_rng_state()
    torch.manual_seed(1)
    assert_close(compute(IMPLEMENTATIONS[name], net, x, hx, **keywords), truth, CLOSE)
    assert torch.get_rng_state().equal(left)
    torch.manual_seed(2)
    other = compute(IMPLEMENTATIONS[name], net, x, hx, **keywords)
    assert not torch.allclose(other["output"], truth["output"])
