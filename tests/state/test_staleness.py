"""Every call uses the present weights, whichever calls came before and however weights changed.

Each kind of call reads the weights differently: past the dispatcher, packed, in place, saved for
backward. If anything were kept between calls, some pair of kinds would show it.
"""

import pytest
import torch
from state_support import close, make, noise, same_bits
from torch import nn
from torch.nn.utils import parametrize

from stateful_lstm import StatefulLSTM
from stateful_lstm.backend import operators

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS = 5


def build(dtype=torch.float64):
    lstm = make(hidden_size=9, num_layers=2, dtype=dtype)
    lstm.allocate_state(SLOTS)
    return lstm


# ---- kinds of calls: what they give --------------------------------------------------------------


def inference(steps, batch):
    """The results of an inference call; a batch of one row is slot 2."""

    def run(lstm, weights=None):
        x = noise(steps, batch, 3, dtype=lstm.state.h.dtype)
        slots = None if batch == SLOTS else torch.tensor([2])
        with torch.no_grad():
            y, hc = given(lstm, weights)(x, state_indices=slots)
        return [y, *hc, *lstm.state.read()]

    return run


def training(lstm, weights=None):
    x = noise(6, SLOTS, 3, dtype=lstm.state.h.dtype).requires_grad_()
    y, hc = given(lstm, weights)(x)
    (grad,) = torch.autograd.grad(y.square().sum() + hc[1].sum(), x)
    return [y, *hc, *lstm.state.read(), grad]


def given(lstm, weights):
    """The layer; with other weights for one call if there are any."""
    if weights is None:
        return lstm
    return lambda *args, **options: torch.func.functional_call(lstm, weights, args, options)


def with_hx(lstm, weights=None):
    """The regular path, from given states, layer by layer."""
    x, start = noise(40, SLOTS, 3, dtype=lstm.state.h.dtype), lstm.state.read()
    with torch.no_grad():
        y, hc = given(lstm, weights)(x, start)
    return [y, *hc, *lstm.state.read()]


KINDS = {
    "fastpath_inference": inference(1, SLOTS),
    "packed": inference(40, SLOTS),
    "in_place": inference(16, 1),
    "with_hx": with_hx,
    "training": training,
}
pairs = [
    pytest.mark.parametrize("before", KINDS.values(), ids=[f"after_{kind}" for kind in KINDS]),
    pytest.mark.parametrize("after", KINDS.values(), ids=KINDS),
]


def of_all_kinds(test):
    for mark in pairs:
        test = mark(test)
    return test


def fresh(lstm, weights=None):
    """A layer made this moment, with the weights that `lstm` shows, and its state."""
    new = StatefulLSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, dtype=lstm.state.h.dtype)
    with torch.no_grad():
        for name, own in new.named_parameters():
            own.copy_(getattr(lstm, name) if weights is None else weights[name])
    new.allocate_state(lstm.state.slots).write(lstm.state.read())
    return new


def assert_as_fresh(kind, lstm, weights=None):
    """Runs a call on the layer; its results are those of a fresh one from the same state."""
    new = fresh(lstm, weights)  # first: the call moves the state
    found, expected = kind(lstm, weights), kind(new)
    for k, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        # The sixth is a gradient, whose last product is the library's and may mind alignment.
        assert k == 5 or same_bits(ours, theirs)
        close(ours, theirs)
    return found


# ---- ways to change weights ----------------------------------------------------------------------


def sgd(lstm):
    stepped(lstm, torch.optim.SGD(lstm.parameters(), lr=1.0))


def adam_foreach(lstm):
    stepped(lstm, torch.optim.Adam(lstm.parameters(), lr=0.1, foreach=True))


def stepped(lstm, optimizer):
    for weight in lstm.parameters():
        weight.grad = noise(*weight.shape, dtype=weight.dtype)
    optimizer.step()


def in_place(lstm):
    with torch.no_grad():
        lstm.weight_hh_l0.mul_(-1)
        lstm.bias_ih_l1[3] = 2


def loaded(lstm):
    lstm.load_state_dict(make(seed=9, hidden_size=9, num_layers=2).state_dict())


def loaded_by_assignment(lstm):
    other = make(seed=9, hidden_size=9, num_layers=2, dtype=lstm.state.h.dtype)
    lstm.load_state_dict(other.state_dict(), assign=True)


def edited_through_data(lstm):
    lstm.weight_ih_l1.data[2] += 1


def data_replaced(lstm):
    lstm.weight_hh_l1.data = lstm.weight_hh_l1.data.neg()


def data_replaced_by_a_view_with_an_offset(lstm):
    weight = lstm.weight_hh_l1
    lstm.weight_hh_l1.data = torch.cat([weight[:1], -weight]).detach()[1:]


def through_numpy(lstm):
    lstm.weight_ih_l0.detach().numpy()[...] *= -1


def shared_with_numpy(lstm):
    array = lstm.weight_hh_l0.detach().numpy().copy()
    lstm.weight_hh_l0.data = torch.from_numpy(array)
    KINDS["fastpath_inference"](lstm)
    KINDS["packed"](lstm)
    array *= -1


def one_number_deep_inside(lstm):
    lstm.weight_hh_l1.detach().numpy()[17, 4] += 1


def parameter_replaced(lstm):
    lstm.weight_hh_l0 = nn.Parameter(-lstm.weight_hh_l0.detach())


def parameter_freed_and_replaced(lstm):
    """The new one may get the old one's memory, and its id."""
    replacement = -lstm.weight_hh_l0.detach()
    del lstm.weight_hh_l0
    lstm.weight_hh_l0 = nn.Parameter(replacement)


def cast_there_and_back(lstm):
    lstm.bfloat16().to(torch.float64)


def halved_by_apply(lstm):
    lstm._apply(lambda tensor: tensor * 0.5)


def swapped_on_conversion(lstm):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        lstm._apply(lambda tensor: tensor * 0.5)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def from_a_vector(lstm):
    vector = nn.utils.parameters_to_vector(lstm.parameters()).detach() * -1
    nn.utils.vector_to_parameters(vector, lstm.parameters())
    KINDS["fastpath_inference"](lstm)
    vector.mul_(0.5)  # of which the weights are views


def initialised_anew(lstm):
    lstm.reset_parameters()


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized(lstm):
    parametrize.register_parametrization(lstm, "weight_hh_l0", Doubled())


def original_edited(lstm):
    parametrized(lstm)
    KINDS["fastpath_inference"](lstm)
    KINDS["packed"](lstm)
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original.mul_(-1)


def parametrization_removed(lstm):
    parametrized(lstm)
    KINDS["fastpath_inference"](lstm)
    parametrize.remove_parametrizations(lstm, "weight_hh_l0")


def set_to_another_storage(lstm):
    with torch.no_grad():
        lstm.weight_hh_l0.set_(-lstm.weight_hh_l0)


EDITS = [
    sgd,
    adam_foreach,
    in_place,
    loaded,
    loaded_by_assignment,
    edited_through_data,
    data_replaced,
    data_replaced_by_a_view_with_an_offset,
    through_numpy,
    shared_with_numpy,
    one_number_deep_inside,
    parameter_replaced,
    parameter_freed_and_replaced,
    cast_there_and_back,
    halved_by_apply,
    swapped_on_conversion,
    from_a_vector,
    initialised_anew,
    parametrized,
    original_edited,
    parametrization_removed,
    set_to_another_storage,
]


@pytest.mark.sampled
@of_all_kinds
@pytest.mark.parametrize("edit", EDITS)
def test_a_call_after_a_change_is_that_of_a_fresh_layer(before, after, edit):
    lstm = build()
    for _ in range(2):  # whatever is kept on the second use is kept now
        before(lstm)
    old = fresh(lstm)
    edit(lstm)
    old.state.write(lstm.state.read())
    found = assert_as_fresh(after, lstm)
    assert not same_bits(after(old)[0], found[0]), "the edit changed nothing"


@of_all_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_in_other_dtypes(before, after, dtype):
    lstm = build(dtype)
    before(lstm)
    in_place(lstm)
    assert_as_fresh(after, lstm)


@of_all_kinds
def test_weights_given_for_one_call_serve_that_call_alone(before, after):
    lstm, other = build(), make(seed=9, hidden_size=9, num_layers=2)
    before(lstm)
    weights = {name: weight.detach() for name, weight in other.named_parameters()}
    assert_as_fresh(after, lstm, weights)
    assert_as_fresh(before, lstm)


@of_all_kinds
def test_a_cast_changes_the_dtype_of_the_next_call(before, after):
    lstm = build()
    before(lstm)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        lstm.to(dtype)
        assert assert_as_fresh(after, lstm)[0].dtype == dtype


@of_all_kinds
def test_weights_that_took_another_layers_memory_are_that_layers_no_more(before, after):
    # The allocator likes to hand out what was just given back: same addresses, other numbers.
    for seed in range(3):
        lstm = make(seed=seed, hidden_size=9, num_layers=2)
        lstm.allocate_state(SLOTS)
        before(lstm)
        assert_as_fresh(after, lstm)
        del lstm


def test_the_kinds_of_calls_are_what_their_names_say(monkeypatch):
    taken = []
    step = operators.fastpath_inference
    if step is None:
        pytest.skip("there is no fast path with this torch")
    monkeypatch.setattr(
        operators, "fastpath_inference", lambda *args: taken.append(step(*args)) or taken[-1]
    )
    for kind, run in KINDS.items():
        taken.clear()
        run(build())
        assert any(out is not None for out in taken) == (kind not in ("with_hx", "training"))
