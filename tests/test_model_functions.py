"""Whole-model functions, the constructor's extras, and weights changed behind the layer's back."""

import copy

import pytest
import torch
from state_support import (
    assert_unmoved,
    by_hand,
    call,
    close,
    every_mode,
    make,
    noise,
    plain,
    same_bits,
    snapshot,
)
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import stateful_lstm
from stateful_lstm import StatefulLSTM


class Nested(nn.Module):
    """Layers in a list, in a dict, two directions, one shared by two names, one without state."""

    def __init__(self):
        super().__init__()
        self.stack = nn.ModuleList([make(seed=1), nn.Sequential(make(1, 5, 5, num_layers=2))])
        self.heads = nn.ModuleDict({"both": make(3, 5, 4, bidirectional=True)})
        self.again = self.stack[0]
        self.stateless = make(4, 8, 2, stateful=False)
        self.out = nn.Linear(2, 1, dtype=torch.float64)

    def forward(self, x):
        x = self.stack[1][0](self.stack[0](x)[0])[0]
        return self.out(self.stateless(self.heads["both"](x)[0])[0])

    def layers(self):
        return [self.stack[0], self.stack[1][0], self.heads["both"]]


NAMES = {"stack.0", "stack.1.0", "heads.both"}


def test_reset_state_reaches_every_layer_and_takes_rows():
    model = Nested()
    model(noise(3, 4, 3))
    before = [layer.state.read()[0] for layer in model.layers()]
    stateful_lstm.reset_state(model, torch.tensor([True, False, False, False]))
    for layer, h in zip(model.layers(), before, strict=True):
        assert not layer.state.h[:, 0].any() and same_bits(layer.state.h[:, 1:], h[:, 1:])
    stateful_lstm.reset_state(model, torch.tensor([3]))
    assert not any(layer.state.h[:, 3].any() for layer in model.layers())
    stateful_lstm.reset_state(model)
    assert not any(layer.state.h.any() or layer.state.c.any() for layer in model.layers())


def test_the_functions_take_a_single_layer_and_a_model_without_any():
    lstm = make()
    lstm(noise(3, 4, 3))
    assert len(stateful_lstm.get_state(lstm)) == 1
    stateful_lstm.reset_state(lstm)
    assert not lstm.state.h.any()
    bare = nn.Linear(2, 2)
    stateful_lstm.reset_state(bare)
    assert stateful_lstm.get_state(bare) == {}
    with stateful_lstm.preserve_state(bare):
        pass


def test_preserve_state_of_a_model_puts_every_layer_back_even_after_an_exception():
    model = Nested()
    with stateful_lstm.preserve_state(model):
        model(noise(3, 7, 3))
    assert all(layer.state is None for layer in model.layers())
    model(noise(3, 4, 3))
    before = [snapshot(layer.state) for layer in model.layers()]
    with pytest.raises(KeyError), stateful_lstm.preserve_state(model):
        model(noise(3, 4, 3, seed=2))
        stateful_lstm.reset_state(model)
        raise KeyError
    for layer, was in zip(model.layers(), before, strict=True):
        assert_unmoved(was, layer.state)


def test_get_state_names_every_layer_once_and_gives_copies():
    model = Nested()
    assert stateful_lstm.get_state(model) == {}
    model(noise(3, 4, 3))
    states = stateful_lstm.get_state(model)
    assert set(states) == NAMES
    before = [snapshot(layer.state) for layer in model.layers()]
    for h, c in states.values():
        h.fill_(9)
        c.fill_(9)
    for layer, was in zip(model.layers(), before, strict=True):
        assert_unmoved(was, layer.state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_set_state_resumes_exactly_in_a_fresh_model(dtype, tmp_path):
    running, fresh = Nested().to(dtype), Nested().to(dtype)
    running(noise(3, 4, 3, dtype=dtype))
    file = tmp_path / "states.pt"
    torch.save(stateful_lstm.get_state(running), file)
    stateful_lstm.set_state(fresh, torch.load(file))
    for ours, theirs in zip(fresh.layers(), running.layers(), strict=True):
        assert same_bits(ours.state.h, theirs.state.h) and same_bits(ours.state.c, theirs.state.c)
    x = noise(3, 4, 3, seed=2, dtype=dtype)
    assert same_bits(fresh(x), running(x))


def test_set_state_goes_back_in_place_and_may_change_the_number_of_rows():
    model = Nested()
    model(noise(3, 4, 3))
    states = stateful_lstm.get_state(model)
    before = [snapshot(layer.state) for layer in model.layers()]
    y = model(noise(3, 4, 3, seed=2))
    stateful_lstm.set_state(model, states)
    for layer, was in zip(model.layers(), before, strict=True):
        assert_unmoved(was, layer.state)
    assert same_bits(model(noise(3, 4, 3, seed=2)), y)
    wide = Nested()
    wide(noise(3, 6, 3))
    stateful_lstm.set_state(wide, states)
    assert same_bits(wide(noise(3, 4, 3, seed=2)), y)


def test_set_state_resumes_before_the_first_call_too():
    model = Nested()
    states = stateful_lstm.get_state(model)
    y = model(noise(3, 4, 3))
    stateful_lstm.set_state(model, states)
    assert same_bits(model(noise(3, 4, 3)), y)


def options():
    return [
        {},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "dropout": 0.5, "proj_size": 2},
        {"bias": False},
    ]


@pytest.mark.parametrize("at_root", [True, False])
@pytest.mark.parametrize("kind", options(), ids=str)
def test_convert_keeps_weights_and_meaning(kind, at_root):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 5, dtype=torch.float64, **kind).eval()
    lstm.weight_hh_l0.requires_grad_(False)
    weights = dict(lstm.named_parameters())
    expected = lstm(noise(4, 4, 3))
    if at_root:
        converted = stateful_lstm.convert(lstm)
    else:
        converted = stateful_lstm.convert(nn.Sequential(nn.Linear(3, 3), lstm))[1]
    assert type(converted) is StatefulLSTM and converted.stateful
    assert not converted.training
    assert list(dict(converted.named_parameters())) == list(weights)
    for name, weight in converted.named_parameters():
        assert weight is weights[name], "an optimizer made before would train nothing"
        assert weight.requires_grad == (name != "weight_hh_l0")
    y, (h, c) = converted(noise(4, 4, 3))
    close(y, expected[0])
    close(h, expected[1][0])
    close(c, expected[1][1])
    assert converted.dropout == kind.get("dropout", 0)
    assert not same_bits(converted(noise(4, 4, 3))[0], y), "the state is not carried on"


def test_convert_leaves_everything_else_alone():
    model = nn.ModuleDict({
        "linear": nn.Linear(3, 3), "gru": nn.GRU(3, 5), "ours": make(recurrent_dropout=0.5),
        "deep": nn.Sequential(nn.Sequential(nn.LSTM(3, 5))),
    })  # fmt: skip
    kept = {name: model[name] for name in ("linear", "gru", "ours")}
    names = list(model.state_dict())
    converted = stateful_lstm.convert(model)
    assert list(converted.state_dict()) == names
    assert isinstance(converted["deep"][0][0], StatefulLSTM)
    assert not any(isinstance(module, nn.LSTM) for module in converted.modules())
    for name, module in kept.items():
        assert converted[name] is module


def test_convert_to_stateless_layers():
    converted = stateful_lstm.convert(nn.Sequential(nn.LSTM(3, 5)), stateful=False)[0]
    x = noise(3, 4, 3, dtype=torch.float32)
    assert same_bits(converted(x)[0], converted(x)[0]) and converted.state is None


def test_convert_keeps_tied_modules_and_tied_weights_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = self.two = nn.LSTM(3, 3)
            self.three = nn.LSTM(3, 3)
            self.three.weight_ih_l0 = self.one.weight_ih_l0

    model = stateful_lstm.convert(Tied())
    assert model.one is model.two and isinstance(model.one, StatefulLSTM)
    assert model.three is not model.one
    assert model.three.weight_ih_l0 is model.one.weight_ih_l0


def test_convert_takes_a_weight_normed_layer():
    model = stateful_lstm.convert(nn.Sequential(weight_norm(plain(make()), "weight_hh_l0")))
    lstm = model[0]
    assert isinstance(lstm, StatefulLSTM) and not isinstance(lstm, nn.LSTM)
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)
    x = noise(3, 4, 3)
    close(lstm(x)[0], plain(lstm)(x)[0])
    assert lstm.state is not None and "parametrizations.weight_hh_l0.original0" in lstm.state_dict()


def test_convert_keeps_hooks():
    lstm, seen = nn.LSTM(3, 5), []
    lstm.register_forward_hook(lambda module, args, output: seen.append("after"))
    lstm.register_forward_pre_hook(lambda module, args: seen.append("before"))
    model = stateful_lstm.convert(nn.Sequential(lstm))
    model[0](torch.zeros(2, 1, 3))
    assert seen == ["before", "after"]


def test_info_says_what_is_there():
    info = stateful_lstm.info()
    assert info["version"] == stateful_lstm.__version__
    assert "reference" in info["backends"]
    text = str(info).lower()
    assert "cpu" in text and "cuda" in text


def test_unit_forget_bias_adds_one_at_initialisation_only():
    without, with_it = (
        make(num_layers=2, bidirectional=True),
        make(num_layers=2, bidirectional=True, unit_forget_bias=True),
    )
    forget = slice(5, 10)
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        moved = 0
        for name in (f"bias_ih_{suffix}", f"bias_hh_{suffix}"):
            plain_bias, bias = getattr(without, name).detach(), getattr(with_it, name).detach()
            raised = plain_bias.clone()
            raised[forget] += 1
            assert same_bits(bias, plain_bias) or same_bits(bias, raised)
            moved += same_bits(bias, raised)
        assert moved == 1
        for name in (f"weight_ih_{suffix}", f"weight_hh_{suffix}"):
            assert same_bits(getattr(with_it, name), getattr(without, name))
    with_it.load_state_dict(without.state_dict())
    for copied in (with_it, copy.deepcopy(with_it)):
        for ours, theirs in zip(copied.parameters(), without.parameters(), strict=True):
            assert same_bits(ours, theirs)


def window_on_the_mask(p=0.25, hidden=64):
    """A layer whose h shows the mask: f = 0, i = o = 1, g = tanh(0.5 + 0.375 * dropped h)."""
    lstm = make(input_size=1, hidden_size=hidden, recurrent_dropout=p)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.zero_()
        lstm.bias_ih_l0.copy_(torch.tensor([40.0, -40.0, 0.5, 40.0]).repeat_interleave(hidden))
        lstm.weight_hh_l0[2 * hidden : 3 * hidden] = 0.375 * torch.eye(hidden)
    return lstm


def by_equation(scale, steps, h):
    out = []
    for _ in range(steps):
        h = torch.tanh(torch.tanh(0.5 + 0.375 * scale * h))
        out.append(h)
    return torch.stack(out)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 6])
def test_recurrent_dropout_is_one_mask_per_row_for_the_whole_call(steps, grad):
    lstm, p, x = window_on_the_mask(), 0.25, noise(steps, 8, 1)
    h = torch.full((1, 8, 64), 0.3, dtype=torch.float64)
    lstm.allocate_state(8).write((h, h))
    with lstm.preserve_state():
        y, _ = call(lstm, x, grad)
    dropped, kept = by_equation(0, steps, h[0]), by_equation(1 / (1 - p), steps, h[0])
    is_dropped = (y - dropped).abs().amax(0) < 1e-9
    is_kept = (y - kept).abs().amax(0) < 1e-9
    assert (is_dropped ^ is_kept).all(), "not one mask, or not scaled by 1 / (1 - p)"
    assert abs(is_dropped.double().mean() - p) < 0.1  # five standard deviations
    assert not (is_dropped == is_dropped[:1]).all(), "the rows share a mask"
    with lstm.preserve_state():
        assert not same_bits(call(lstm, x, grad)[0], y), "two calls share a mask"
    assert not same_bits(call(lstm, x, grad, hx=(h, h))[0], y), "hx is not dropped from"


@every_mode
def test_dropout_between_layers_is_on_in_training_mode_and_off_in_eval_mode(steps, grad):
    lstm, x = make(num_layers=2, dropout=0.5), noise(steps, 4, 3)
    lstm.allocate_state(4)
    outputs = []
    for training in (True, True, False, False):
        lstm.train(training)
        with lstm.preserve_state():
            outputs.append(call(lstm, x, grad)[0])
    assert not same_bits(outputs[0], outputs[1]) and same_bits(outputs[2], outputs[3])
    close(outputs[2], by_hand(lstm, x)[0])


def test_recurrent_dropout_leaves_output_and_state_whole_and_rests_in_eval_mode():
    lstm = window_on_the_mask()
    y, (h_n, _) = lstm(torch.zeros(6, 8, 1, dtype=torch.float64))
    assert y.all() and same_bits(h_n[0], y[-1]) and same_bits(lstm.state.h, h_n)
    start = lstm.state.read()
    lstm.eval()
    x = torch.zeros(6, 8, 1, dtype=torch.float64)
    close(lstm(x)[0], by_hand(lstm, x, start)[0])


def test_gradients_of_recurrent_dropout_know_the_mask():
    lstm = make(stateful=False, recurrent_dropout=0.5, num_layers=2)

    def run(x):
        torch.manual_seed(3)
        return lstm(x)[0]

    x = noise(3, 2, 3).requires_grad_()
    assert not same_bits(run(x), lstm.eval()(x)[0])
    lstm.train()
    assert torch.autograd.gradcheck(run, (x,))


def in_place(lstm):
    with torch.no_grad():
        lstm.weight_hh_l0.mul_(-1)


def through_data(lstm):
    lstm.weight_hh_l0.data.mul_(-1)
    lstm.bias_ih_l1.data = lstm.bias_ih_l1.data + 1


def loaded(lstm):
    lstm.load_state_dict(make(seed=9, num_layers=2).state_dict())


def replaced(lstm):
    lstm.weight_ih_l1 = nn.Parameter(-lstm.weight_ih_l1.detach())


def an_optimizer_step(lstm):
    with lstm.preserve_state():
        lstm(noise(2, 4, 3))[0].sum().backward()
    torch.optim.SGD(lstm.parameters(), lr=1.0).step()


def cast(lstm):
    lstm.float()
    lstm.double()


def parametrized(lstm):
    weight_norm(lstm, "weight_hh_l0")
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)


def flat_in_memory(lstm):
    """Weights that are no longer contiguous."""
    lstm.weight_hh_l0.data = lstm.weight_hh_l0.data.t().contiguous().t().neg()


@every_mode
@pytest.mark.parametrize(
    "edit",
    [in_place, through_data, loaded, replaced, an_optimizer_step, cast, parametrized,
     flat_in_memory],
)  # fmt: skip
def test_weights_changed_by_any_road_are_seen_by_the_next_call(edit, steps, grad):
    lstm = make(num_layers=2)
    x = noise(steps, 4, 3)
    for _ in range(3):  # whatever is cached is cached now
        call(lstm, x, grad)
    start = lstm.state.read()
    edit(lstm)
    y, _ = call(lstm, x, grad)
    close(y, by_hand(lstm, x, start)[0])
    if edit is not cast:
        assert not torch.allclose(y, by_hand(make(num_layers=2), x, start)[0])


@every_mode
def test_weights_given_by_functional_call_are_used_for_that_call_alone(steps, grad):
    lstm, other = make(num_layers=2), make(seed=9, num_layers=2)
    x = noise(steps, 4, 3)
    call(lstm, x, grad)
    weights = {name: p.detach().requires_grad_() for name, p in other.named_parameters()}
    start = lstm.state.read()
    with torch.set_grad_enabled(grad):
        y, _ = torch.func.functional_call(lstm, weights, (x,))
    close(y, plain(other)(x, start)[0])
    if grad:
        y.square().sum().backward()
        assert all(weight.grad is not None for weight in weights.values())
        assert all(p.grad is None for p in lstm.parameters())
    start = lstm.state.read()
    close(call(lstm, x, grad)[0], plain(lstm)(x, start)[0])


def test_a_weight_normed_layer_can_be_deep_copied():
    theirs = copy.deepcopy(weight_norm(plain(make()), "weight_hh_l0"))
    ours = weight_norm(make(), "weight_hh_l0")
    ours(noise(3, 4, 3))
    twin = copy.deepcopy(ours)
    assert list(twin.state_dict()) == list(theirs.state_dict())
    assert same_bits(twin(noise(3, 4, 3))[0], ours(noise(3, 4, 3))[0])


def test_a_weight_normed_layer_trains_its_own_parts():
    lstm = weight_norm(make(), "weight_hh_l0")
    lstm(noise(3, 4, 3), (noise(1, 4, 5), noise(1, 4, 5)))[0].sum().backward()
    assert lstm.parametrizations.weight_hh_l0.original0.grad.any()
    assert lstm.parametrizations.weight_hh_l0.original1.grad is not None
