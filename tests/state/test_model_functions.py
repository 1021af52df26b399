"""Functions for a whole model: reset, preserve, get, set and convert, at any depth of nesting."""

import pytest
import torch
from state_support import (
    assert_unmoved,
    close,
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


def test_rows_that_one_layer_does_not_have_reset_no_layer():
    model = nn.ModuleList([make(), make()])
    for layer, rows in zip(model, (6, 4), strict=True):
        layer(noise(2, rows, 3))
    before = [snapshot(layer.state) for layer in model]
    for which in (torch.tensor([5]), torch.ones(6, dtype=torch.bool)):
        with pytest.raises((IndexError, ValueError)):
            stateful_lstm.reset_state(model, which)
        for layer, was in zip(model, before, strict=True):
            assert_unmoved(was, layer.state)


def test_the_functions_take_a_single_layer_and_a_model_without_any():
    lstm = make()
    lstm(noise(3, 4, 3))
    assert len(stateful_lstm.get_state(lstm)) == 1
    stateful_lstm.reset_state(lstm)
    assert not lstm.state.h.any()
    bare = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="reset_state does nothing: Linear has no StatefulLSTM"):
        stateful_lstm.reset_state(bare)
    with pytest.warns(UserWarning, match="get_state does nothing"):
        assert stateful_lstm.get_state(bare) == {}
    nothing = pytest.warns(UserWarning, match="preserve_state does nothing")
    with nothing as seen, stateful_lstm.preserve_state(bare):
        pass
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="set_state does nothing"):
        stateful_lstm.set_state(bare, {})


def test_a_model_without_layers_is_told_of_the_recurrent_ones_it_has():
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(2, 3), "gru": nn.GRU(2, 3)})
    with pytest.warns(
        UserWarning, match=r"own \(Own\), gru \(GRU\): stateful_lstm.convert"
    ) as seen:
        stateful_lstm.reset_state(model)
    assert seen[0].filename == __file__


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
