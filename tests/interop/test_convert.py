"""``convert`` on nets as people build them, and on hooks and wrappers of an nn.LSTM inside.

The plain cases are in tests/state/test_model_functions.py.
"""

import copy
import io
import pickle

import pytest
import torch
from convert_nets import NETS, ONCE, LanguageModel, Separator
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # nn.LSTM says so once in a process, in inference.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
old_weight_norm = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated")

each_net = pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(a, b):
    torch.testing.assert_close(a, b)


def two(net, stateful=False):
    """The same model twice, the first one converted."""
    torch.manual_seed(1)
    theirs = net()
    ours = stateful_lstm.convert(copy.deepcopy(theirs), stateful=stateful)
    assert not any(isinstance(module, nn.LSTM) for module in ours.modules())
    return ours, theirs


def seeded(model, args):
    """What the model computes, dropout drawn from a seed; then the gradients, by name."""
    torch.manual_seed(2)
    y = model(*args)
    y.square().sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters()}


# ---- nets --------------------------------------------------------------------------------------


@each_net
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_net_computes_what_it_did(net, training):
    ours, theirs = two(net)
    for _ in range(2):
        args = theirs.example()
        close(seeded(ours.train(training), args), seeded(theirs.train(training), args))
        with torch.no_grad():
            torch.manual_seed(3)
            y = ours(*args)
            torch.manual_seed(3)
            close(y, theirs(*args))


@pytest.mark.parametrize("net", ONCE, ids=lambda net: net.__name__)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_stateful_nets_first_call_is_the_old_one_and_the_second_goes_on(net, training):
    ours, theirs = two(net, stateful=True)
    args = theirs.example()
    first = seeded(ours.train(training), args)
    close(first, seeded(theirs.train(training), args))
    second, again = seeded(ours, args)[0], seeded(theirs, args)[0]
    assert not torch.allclose(second, again)
    ours.load_state_dict(theirs.state_dict())  # the norms' running means have parted
    stateful_lstm.reset_state(ours)
    ours.zero_grad()
    close(seeded(ours.eval(), args)[0], seeded(theirs.eval(), args)[0])


@each_net
@pytest.mark.parametrize("stateful", [False, True])
def test_state_dicts_are_interchangeable(net, stateful):
    ours, theirs = two(net, stateful)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    other = net()
    ours.load_state_dict(other.state_dict())
    theirs.load_state_dict(ours.state_dict())
    args = theirs.example()
    if not stateful:
        close(ours.eval()(*args), other.eval()(*args))
    close(theirs.eval()(*args), other.eval()(*args))


@each_net
def test_an_optimizer_made_before_goes_on_training(net):
    torch.manual_seed(1)
    theirs, ours = net(), net()
    ours.load_state_dict(theirs.state_dict())
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in (theirs, ours)]
    args = theirs.example()
    for step in range(4):
        if step == 2:  # in the middle of training, with Adam's moments in place
            stateful_lstm.convert(ours, stateful=False)
        for model, optimizer in zip((theirs, ours), optimizers, strict=True):
            optimizer.zero_grad()
            seeded(model, args)
            optimizer.step()
    close(list(ours.parameters()), list(theirs.parameters()))
    moved = zip(ours.parameters(), two(net)[1].parameters(), strict=True)
    assert all(torch.equal(now, old) != now.requires_grad for now, old in moved)


@each_net
def test_copies_and_pickles_of_a_converted_net(net):
    ours, theirs = two(net)
    args = theirs.example()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)),
              torch.load(file, weights_only=False)]  # fmt: skip
    expected = seeded(theirs, args)
    for copied in copies:
        close(seeded(copied, args), expected)
    assert all(p.grad is None for p in ours.parameters())


def test_tied_and_frozen_weights_stay_so():
    model = two(LanguageModel)[0]
    assert model.out.weight is model.embedding.weight
    model = two(Separator)[0]
    assert model.first["time"] is model.second["time"]
    assert model.first["bands"].weight_ih_l0 is model.second["bands"].weight_ih_l0
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "first.time.weight_hh_l0"
    ]
    _, gradients = seeded(model, model.example())
    assert gradients.pop("first.time.weight_hh_l0") is None
    assert all(gradient is not None for gradient in gradients.values())
    copied = copy.deepcopy(model)
    assert copied.first["time"] is copied.second["time"]
    assert copied.first["bands"].weight_ih_l0 is copied.second["bands"].weight_ih_l0


# ---- weights that are computed -----------------------------------------------------------------


def shown(lstm):
    """An nn.LSTM with the weights that the layer shows at this moment, however they came about."""
    theirs = nn.LSTM(3, 5, 2)
    theirs.load_state_dict({name: getattr(lstm, name).detach() for name in theirs.state_dict()})
    return theirs


def old_norm(lstm):
    return nn.utils.weight_norm(lstm, "weight_hh_l0")


def old_spectral(lstm):
    return nn.utils.spectral_norm(lstm, "weight_hh_l0")


def norm(lstm):
    parametrizations.weight_norm(lstm, "weight_ih_l1")
    return parametrizations.weight_norm(lstm, "weight_hh_l0")


def orthogonal(lstm):
    return parametrizations.orthogonal(lstm, "weight_hh_l1")


def pruned(lstm):
    prune.l1_unstructured(lstm, "weight_ih_l0", 0.3)
    prune.random_structured(lstm, "weight_hh_l0", 0.4, dim=1)
    return prune.random_unstructured(lstm, "weight_hh_l0", 0.2)  # a second mask on the first


WRAPS = [old_norm, old_spectral, norm, orthogonal, pruned]
each_wrap = pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: wrap.__name__)


@old_weight_norm
@each_wrap
@pytest.mark.parametrize("before", [True, False], ids=["wrapped_first", "converted_first"])
def test_computed_weights_train_as_nn_lstms_do(wrap, before):
    torch.manual_seed(1)
    plain = nn.LSTM(3, 5, 2)
    torch.manual_seed(2)  # the wraps draw
    theirs = wrap(copy.deepcopy(plain))
    torch.manual_seed(2)
    if before:
        ours = stateful_lstm.convert(wrap(copy.deepcopy(plain)), stateful=False)
    else:
        ours = wrap(stateful_lstm.convert(copy.deepcopy(plain), stateful=False))
    assert isinstance(ours, StatefulLSTM) and not isinstance(ours, nn.LSTM)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(4, 2, 3)
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(x)[0].square().sum().backward()
            optimizer.step()
    close(list(ours.parameters()), list(theirs.parameters()))
    close(list(ours.buffers()), list(theirs.buffers()))
    y = ours.eval()(x)[0]
    close(y, theirs.eval()(x)[0])
    close(y, shown(ours)(x)[0])


@old_weight_norm
@each_wrap
def test_computed_weights_can_be_made_plain_after_convert(wrap):
    lstm = stateful_lstm.convert(wrap(nn.LSTM(3, 5, 2)), stateful=False).eval()
    x = torch.randn(4, 2, 3)
    y = lstm(x)[0]
    if wrap is old_norm:
        nn.utils.remove_weight_norm(lstm, "weight_hh_l0")
    elif wrap is old_spectral:
        nn.utils.remove_spectral_norm(lstm, "weight_hh_l0")
    elif wrap is pruned:
        prune.remove(lstm, "weight_ih_l0")
        prune.remove(lstm, "weight_hh_l0")
    else:
        for name in list(lstm.parametrizations):
            parametrize.remove_parametrizations(lstm, name)
    close(lstm(x)[0], y)
    assert type(lstm) is StatefulLSTM
    assert sorted(lstm.state_dict()) == sorted(nn.LSTM(3, 5, 2).state_dict())


def test_pruned_weights_stay_zero():
    lstm = stateful_lstm.convert(pruned(nn.LSTM(3, 5, 2)))
    optimizer = torch.optim.SGD(lstm.parameters(), 0.1)
    for _ in range(3):
        lstm(torch.randn(4, 2, 3))[0].sum().backward()
        optimizer.step()
    lstm(torch.randn(4, 2, 3))
    gone = lstm.weight_hh_l0_mask == 0
    assert gone.sum() > 40 and not lstm.weight_hh_l0[gone].any()


def test_a_parametrized_layer_is_copied_but_not_pickled_as_in_torch():
    theirs = norm(nn.LSTM(3, 5, 2))
    ours = stateful_lstm.convert(copy.deepcopy(theirs), stateful=False)
    x = torch.randn(4, 2, 3)
    close(copy.deepcopy(ours)(x)[0], theirs(x)[0])
    for layer in (theirs, ours):
        with pytest.raises(RuntimeError, match="only supported through state_dict"):
            pickle.dumps(layer)
    fresh = stateful_lstm.convert(norm(nn.LSTM(3, 5, 2)), stateful=False)
    fresh.load_state_dict(theirs.state_dict())
    close(fresh(x)[0], theirs(x)[0])


# ---- hooks -------------------------------------------------------------------------------------


def test_every_kind_of_hook_stays():
    lstm, seen = nn.LSTM(3, 5), []

    def hook(name):
        return lambda *args, **keywords: seen.append(name)

    lstm.register_forward_pre_hook(hook("before forward"))
    lstm.register_forward_hook(hook("after forward"))
    lstm.register_full_backward_pre_hook(hook("before backward"))
    lstm.register_full_backward_hook(hook("after backward"))
    lstm.register_state_dict_pre_hook(hook("before state_dict"))
    lstm.register_state_dict_post_hook(hook("after state_dict"))
    lstm.register_load_state_dict_pre_hook(hook("before load"))
    lstm.register_load_state_dict_post_hook(hook("after load"))
    lstm.weight_hh_l0.register_hook(hook("gradient"))
    model = stateful_lstm.convert(nn.Sequential(lstm))
    model[0](torch.randn(2, 1, 3, requires_grad=True))[0].sum().backward()
    model.load_state_dict(model.state_dict())
    assert seen == [
        "before forward", "after forward", "before backward", "gradient", "after backward",
        "before state_dict", "after state_dict", "before load", "after load",
    ]  # fmt: skip


def test_hooks_still_change_what_goes_in_and_comes_out():
    def twice(module, args):
        return (2 * args[0], *args[1:])

    def output_alone(module, args, result):
        return result[0]

    theirs = nn.LSTM(3, 5)
    theirs.register_forward_pre_hook(twice)
    theirs.register_forward_hook(output_alone)
    ours = stateful_lstm.convert(copy.deepcopy(theirs), stateful=False)
    x = torch.randn(2, 1, 3)
    assert torch.is_tensor(ours(x))
    close(ours(x), theirs(x))


# ---- what is left alone ------------------------------------------------------------------------


class Doubling(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def own_forward():
    """A forward set on the module itself, as libraries that place modules on devices do."""
    lstm = nn.LSTM(3, 5)
    forward = lstm.forward
    lstm.forward = lambda input: forward(2 * input)
    return lstm


@pytest.mark.parametrize(
    "make",
    [
        lambda: Doubling(3, 5),
        lambda: parametrizations.weight_norm(Doubling(3, 5), "weight_hh_l0"),
        own_forward,
        lambda: nn.LSTMCell(3, 5),
        lambda: torch.ao.nn.quantizable.LSTM(3, 5),
    ],
    ids=["subclass", "parametrized_subclass", "own_forward", "cell", "quantizable"],
)
@pytest.mark.filterwarnings("ignore:convert (left alone|does nothing)")
@pytest.mark.filterwarnings("ignore:torch.ao:DeprecationWarning")
def test_what_is_not_a_plain_lstm_is_left_alone(make):
    torch.set_default_dtype(torch.float32)  # quantizable knows no other
    model = nn.Sequential(make())
    kind, x = type(model[0]), torch.randn(4, 3)
    x = x if kind is nn.LSTMCell else x.unsqueeze(1)
    before = model(x)
    stateful_lstm.convert(model)
    assert type(model[0]) is kind
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_modules_that_are_left_alone_are_named():
    model = nn.ModuleDict({"plain": nn.LSTM(3, 5), "own": Doubling(3, 5), "set": own_forward()})
    words = "convert left alone: own, a Doubling; set, whose forward is its own"
    with pytest.warns(UserWarning, match=words) as seen:
        stateful_lstm.convert(model)
    assert seen[0].filename == __file__
    assert type(model["plain"]) is StatefulLSTM


def test_a_model_without_any_lstm_is_said_to_be_one():
    with pytest.warns(
        UserWarning, match="convert does nothing: Linear has no nn.LSTM inside"
    ) as seen:
        stateful_lstm.convert(nn.Linear(2, 2))
    assert seen[0].filename == __file__


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.parametrize("compiled", ["script", "trace"])
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_scripted_submodule_keeps_its_compiled_lstm(compiled):
    """Its code is fixed; a layer beside it is turned."""
    x = torch.randn(4, 2, 3)
    inner = Wrapped()
    inner = torch.jit.script(inner) if compiled == "script" else torch.jit.trace(inner, x)
    model = nn.Sequential(inner, Wrapped())
    before = model(x)
    stateful_lstm.convert(model, stateful=False)
    assert model[0] is inner and isinstance(model[1].lstm, StatefulLSTM)
    close(model(x), before)


@pytest.mark.filterwarnings("ignore:torch.ao:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:convert does nothing")
def test_a_quantised_lstm_is_left_alone_and_ours_is_not_quantised():
    torch.set_default_dtype(torch.float32)
    quantize = torch.ao.quantization.quantize_dynamic
    model = quantize(Wrapped(), {nn.LSTM}, dtype=torch.qint8)
    x = torch.randn(4, 2, 3)
    before, kind = model(x), type(model.lstm)
    assert kind is torch.ao.nn.quantized.dynamic.LSTM
    stateful_lstm.convert(model)
    assert type(model.lstm) is kind and torch.equal(model(x), before)
    ours = quantize(stateful_lstm.convert(Wrapped()), {nn.LSTM}, dtype=torch.qint8)
    assert type(ours.lstm) is StatefulLSTM


def test_a_layer_of_ours_keeps_its_settings():
    lstm = StatefulLSTM(3, 5, stateful=False, recurrent_dropout=0.5)
    stateful_lstm.convert(nn.Sequential(lstm), stateful=True)
    assert not lstm.stateful and lstm.recurrent_dropout == 0.5


# ---- around the model --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_net_in_a_wrapper_is_converted_in_place():
    x = torch.randn(4, 2, 3)
    inner = Wrapped()
    before = inner(x)
    for model in (
        torch.optim.swa_utils.AveragedModel(inner),
        torch.compile(inner, backend="eager"),
        torch.fx.symbolic_trace(inner),
    ):
        model = copy.deepcopy(model)
        stateful_lstm.convert(model, stateful=False)
        assert any(isinstance(module, StatefulLSTM) for module in model.modules())
        close(model(x), before)


def test_a_layer_without_memory_yet():
    with torch.device("meta"):
        model = stateful_lstm.convert(Wrapped(), stateful=False)
    theirs = Wrapped()
    model.to_empty(device="cpu").load_state_dict(theirs.state_dict())
    x = torch.randn(4, 2, 3)
    close(model(x), theirs(x))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("proj_size", [0, 4])
def test_what_models_call_of_an_nn_lstm_is_there(proj_size, bidirectional):
    theirs = nn.LSTM(3, 5, 2, bidirectional=bidirectional, proj_size=proj_size)
    ours = stateful_lstm.convert(copy.deepcopy(theirs))
    assert {name for name in dir(theirs) if not name.startswith("__")} <= {*dir(ours)}
    x, order = torch.randn(4, 3, 3), torch.tensor([2, 0, 1])
    h, c = theirs(x)[1]
    close(ours.permute_hidden((h, c), order), theirs.permute_hidden((h, c), order))
    ours.check_forward_args(x, (h, c), None)
    for hx in ((h[:, :2], c), (h, c[:, :2])):
        for layer in (theirs, ours):
            with pytest.raises(RuntimeError, match=r"Expected hidden\[[01]\] size"):
                layer.check_forward_args(x, hx, None)
    for name in ("get_expected_hidden_size", "get_expected_cell_size"):
        assert getattr(ours, name)(x, None) == getattr(theirs, name)(x, None)


def test_only_a_call_moves_a_spectral_norm():
    """Each look at such a weight in training mode is a step of its power iteration."""
    norm = nn.utils.parametrizations.spectral_norm
    lstm = norm(StatefulLSTM(3, 8), "weight_hh_l0")
    iteration = lstm.parametrizations["weight_hh_l0"][0]
    before = iteration._u.clone()
    lstm.allocate_state(2)
    lstm.new_state(3)
    lstm.double()  # as it is: but torch goes through everything
    clone = copy.deepcopy(lstm)
    assert torch.equal(iteration._u, before) and lstm.training and iteration.training
    assert torch.equal(clone.parametrizations["weight_hh_l0"][0]._u, before)
    assert clone.training and clone.parametrizations["weight_hh_l0"][0].training
    lstm(torch.randn(4, 2, 3))
    assert not torch.equal(iteration._u, before)


def taken_by(kind):
    lstm = nn.LSTM(3, 5)
    if kind == "buffer":
        lstm.register_buffer("_state", torch.ones(2))
    elif kind == "parameter":
        lstm.state = nn.Parameter(torch.ones(2))
    elif kind == "module":
        lstm.stateful = nn.Linear(2, 2)
    else:
        lstm.reset_state = lambda: None
    return lstm


@pytest.mark.parametrize("kind", ["buffer", "parameter", "module", "attribute"])
def test_a_layer_with_something_under_our_names_is_refused(kind):
    name = {"buffer": "_state", "parameter": "state", "module": "stateful"}
    model = nn.ModuleList([nn.LSTM(3, 5), taken_by(kind)])
    words = rf"1 cannot be converted.*\['{name.get(kind, 'reset_state')}'\]"
    with pytest.raises(ValueError, match=words):
        stateful_lstm.convert(model)
    assert [type(layer) for layer in model] == [nn.LSTM] * 2
    stateful_lstm.convert(model[0]).user_attribute = "the others are the user's own"
    with pytest.raises(TypeError, match="stateful must be True or False, got 'no'"):
        stateful_lstm.convert(model, stateful="no")
