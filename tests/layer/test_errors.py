"""Bad input of every kind raises the right exception with a helpful text, and touches no state."""

import pytest
import torch
from state_support import (
    assert_unmoved,
    call,
    every_mode,
    make,
    noise,
    plain,
    refused,
    snapshot,
)
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import stateful_lstm
from stateful_lstm import StatefulLSTM

ANY = (ValueError, RuntimeError, TypeError)
N, H, S = 3, 5, 4  # input size, hidden size, slots


def filled(**options):
    lstm = make(**options)
    layers = lstm.num_layers * (2 if lstm.bidirectional else 1)
    h, c = noise(layers, S, lstm.proj_size or H, seed=8), noise(layers, S, H, seed=9)
    lstm.allocate_state(S)
    lstm.state.write((h, c))
    return lstm


def ints(*values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype)


def mask(*shape, **options):
    return torch.zeros(*shape, dtype=torch.bool, **options)


def good(steps):
    return noise(steps, S, N)


# name: (arguments by the number of steps, exception, words of the text)
CALLS = {
    "input of rank 4": (lambda t: {"input": noise(t, S, N, 1)}, ValueError, ["4D"]),
    "input of rank 1": (lambda t: {"input": noise(N)}, ValueError, ["1D"]),
    "input size": (lambda t: {"input": noise(t, S, 7)}, RuntimeError, ["3", "7"]),
    "unbatched input size": (lambda t: {"input": noise(t, 7)}, RuntimeError, ["3", "7"]),
    "input dtype": (
        lambda t: {"input": good(t).float()}, ValueError, ["float32", "float64"]),
    "integer input": (
        lambda t: {"input": torch.zeros(t, S, N, dtype=torch.int64)}, ValueError, ["int64"]),
    "input device": (
        lambda t: {"input": good(t).to("meta")}, RuntimeError, ["meta", "cpu"]),
    "hx is one tensor": (lambda t: {"hx": noise(1, S, H)}, ANY, ["hx", "tuple"]),
    "hx is one of two": (lambda t: {"hx": (noise(1, S, H),)}, ANY, ["hx"]),
    "hx is three": (
        lambda t: {"hx": (noise(1, S, H),) * 3}, ANY, ["hx", "a tuple of (a tensor"]),
    "hx holds None": (
        lambda t: {"hx": [noise(1, S, H), None]}, ANY, ["hx", "a list of (a tensor", ", None)"]),
    "hx of rank 0": (
        lambda t: {"hx": (torch.tensor(0.0), torch.tensor(0.0))}, RuntimeError, ["3-D", "0-D"]),
    "integer c": (
        lambda t: {"hx": (noise(1, S, H), torch.zeros(1, S, H, dtype=torch.int64))},
        RuntimeError, ["hidden[1]", "float64", "got torch.int64"]),
    "h of another batch": (
        lambda t: {"hx": (noise(1, 3, H), noise(1, 3, H))}, RuntimeError, ["(1, 4, 5)"]),
    "c of another size": (
        lambda t: {"hx": (noise(1, S, H), noise(1, S, 6))}, RuntimeError, ["(1, 4, 5)", "6"]),
    "hx of other layers": (
        lambda t: {"hx": (noise(2, S, H), noise(2, S, H))}, RuntimeError, ["(1, 4, 5)"]),
    "hx of rank 2": (lambda t: {"hx": (noise(1, H), noise(1, H))}, RuntimeError, ["2-D"]),
    "hx of rank 3, input unbatched": (
        lambda t: {"input": noise(t, N), "hx": (noise(1, 1, H), noise(1, 1, H))},
        RuntimeError, ["3-D"]),
    "hx dtype": (
        lambda t: {"hx": (noise(1, S, H).float(), noise(1, S, H).float())}, ANY,
        ["float"]),
    "hx device": (
        lambda t: {"hx": (noise(1, S, H).to("meta"), noise(1, S, H).to("meta"))},
        RuntimeError, ["meta"]),
    "reset_mask of another length": (
        lambda t: {"reset_mask": mask(t + 1, S)}, ANY, ["reset_mask", "4"]),
    "reset_mask of another batch": (
        lambda t: {"reset_mask": mask(t, 3)}, ANY, ["reset_mask", "3", "4"]),
    "reset_mask turned": (lambda t: {"reset_mask": mask(S, t + 2)}, ANY, ["reset_mask"]),
    "reset_mask without a batch": (lambda t: {"reset_mask": mask(t)}, ANY, ["reset_mask"]),
    "reset_mask of rank 3": (lambda t: {"reset_mask": mask(t, S, 1)}, ANY, ["reset_mask"]),
    "reset_mask with a batch, input unbatched": (
        lambda t: {"input": noise(t, N), "reset_mask": mask(t, 1)}, ANY, ["reset_mask"]),
    "reset_mask dtype": (
        lambda t: {"reset_mask": mask(t, S).long()}, TypeError, ["reset_mask", "bool", "int64"]),
    "reset_mask device": (
        lambda t: {"reset_mask": mask(t, S, device="meta")}, ANY, ["reset_mask", "meta"]),
    "reset_mask is a list": (
        lambda t: {"reset_mask": [[False] * S] * t}, TypeError, ["reset_mask", "list"]),
    "lengths of another batch": (
        lambda t: {"lengths": ints(1, 1, 1)}, ANY, ["lengths", "3", "4"]),
    "lengths of rank 2": (lambda t: {"lengths": ints(1, 1, 1, 1)[None]}, ANY, ["lengths"]),
    "lengths of rank 0": (lambda t: {"lengths": torch.tensor(1)}, ANY, ["lengths"]),
    "lengths dtype": (
        lambda t: {"lengths": torch.ones(S)}, TypeError, ["lengths", "int64", "float32"]),
    "lengths are a mask": (
        lambda t: {"lengths": torch.ones(S, dtype=torch.bool)}, TypeError, ["lengths", "bool"]),
    "lengths beyond T": (
        lambda t: {"lengths": ints(0, 1, t + 1, 1)}, ValueError, ["lengths"]),
    "lengths below 0": (lambda t: {"lengths": ints(0, 1, -1, 1)}, ValueError, ["lengths", "-1"]),
    "state_indices of another batch": (
        lambda t: {"state_indices": ints(0, 1, 2)}, ANY, ["state_indices", "3", "4"]),
    "state_indices of rank 2": (
        lambda t: {"state_indices": ints(0, 1, 2, 3)[None]}, ANY, ["state_indices"]),
    "state_indices dtype": (
        lambda t: {"state_indices": torch.arange(4.0)}, TypeError, ["state_indices", "float32"]),
    "state_indices int16": (
        lambda t: {"state_indices": ints(0, 1, 2, 3, dtype=torch.int16)}, TypeError, ["int16"]),
    "state_indices are a mask": (
        lambda t: {"state_indices": mask(S)}, TypeError, ["state_indices", "bool"]),
    "state_indices beyond S": (
        lambda t: {"state_indices": ints(0, 1, 2, 4)}, IndexError, ["4"]),
    "state_indices below -1": (
        lambda t: {"state_indices": ints(0, 1, 2, -2)}, IndexError, ["-2"]),
    "state_indices twice": (
        lambda t: {"state_indices": ints(0, 1, 2, 1)}, ValueError, ["1"]),
    "batch is not slots": (
        lambda t: {"input": noise(t, 6, N)}, ValueError,
        ["6", "4", "reset_state", "allocate_state", "state_indices"]),
    "unbatched, and many slots": (
        lambda t: {"input": noise(t, N)}, ValueError,
        ["1", "4", "reset_state", "allocate_state", "state_indices"]),
    "batch is not slots, hx given": (
        lambda t: {"input": noise(t, 6, N), "hx": (noise(1, 6, H), noise(1, 6, H))},
        ValueError, ["6", "4"]),
    "input is None": (lambda t: {"input": None}, TypeError, ["input", "None"]),
}  # fmt: skip


@every_mode
@pytest.mark.parametrize("case", CALLS)
def test_a_bad_call_is_refused_and_touches_nothing(case, steps, grad):
    build, kinds, words = CALLS[case]
    lstm = filled()
    with refused(kinds, *words, untouched=[lstm]):
        call(lstm, **{"x": good(steps), **rename(build(steps))}, grad=grad)
    call(lstm, good(steps), grad)  # and the layer still works


def rename(arguments):
    return {("x" if name == "input" else name): value for name, value in arguments.items()}


@pytest.mark.parametrize("case", ["batch is not slots", "reset_mask dtype", "lengths beyond T"])
def test_a_bad_first_call_allocates_nothing(case):
    lstm = make()
    if case == "batch is not slots":
        with refused(ValueError, "6", "4"):
            lstm(noise(2, 6, N), state=lstm.new_state(4))
    else:
        build, kinds, words = CALLS[case]
        with refused(kinds, *words):
            lstm(good(2), **build(2))
    assert lstm.state is None


SHAPES = [
    name
    for name in CALLS
    if name.startswith(
        ("input of", "input size", "unbatched input", "h of", "c of", "hx of", "input dtype")
    )
]


@pytest.mark.parametrize("case", SHAPES)
def test_a_stateless_layer_raises_what_nn_lstm_raises(case):
    lstm = make(stateful=False)
    arguments = CALLS[case][0](2)
    x = arguments.get("input", good(2))
    raised = []
    for layer in (plain(lstm), lstm):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            layer(x, arguments.get("hx"))
        raised.append(caught.type)
    assert raised[0] is raised[1]


def test_a_stateless_layer_refuses_an_empty_sequence_as_nn_lstm_does():
    with pytest.raises(RuntimeError):
        make(stateful=False)(noise(0, S, N))


@pytest.mark.parametrize(
    "repair",
    [
        lambda lstm: lstm(noise(2, 6, N), state_indices=ints(0, 1, 2, 3, -1, -1)),
        lambda lstm: (lstm.allocate_state(6), lstm(noise(2, 6, N))),
        lambda lstm: (lstm.reset_state(), lstm(noise(2, 6, N))),
        lambda lstm: (stateful_lstm.reset_state(lstm), lstm(noise(2, 6, N))),
    ],
    ids=["state_indices", "allocate_state", "reset_state", "reset_state_of_a_model"],
)
def test_each_way_out_named_for_another_batch_size_works(repair):
    lstm = filled()
    repair(lstm)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lstm: lstm.reset_state(ints(0, 1, 2, 3)),
        lambda lstm: (lstm.reset_state(), lstm(noise(2, S, N))),
        lambda lstm: (lstm.reset_state(), lstm.state.write((noise(1, S, H), noise(1, S, H)))),
    ],
    ids=["rows", "then_called", "then_written"],
)
def test_only_a_reset_of_everything_lets_the_batch_change(spoil):
    lstm = filled()
    spoil(lstm)
    with refused(ValueError, "6", "4", untouched=[lstm]):
        lstm(noise(2, 6, N))


@pytest.mark.parametrize("extra", ["reset_mask", "lengths"])
def test_packed_input_takes_neither_mask_nor_lengths(extra):
    lstm = filled()
    packed = pack_padded_sequence(good(2), ints(2, 2, 1, 1))
    value = {"reset_mask": mask(2, S), "lengths": ints(2, 2, 1, 1)}[extra]
    with refused(ValueError, extra, untouched=[lstm]):
        lstm(packed, **{extra: value})


@pytest.mark.parametrize(
    ("rows", "size", "dtype", "words"),
    [(3, N, None, ["3 rows", "4 slots"]), (S, 7, None, ["must be equal to input_size", "got 7"]),
     (S, N, torch.float32, ["input dtype (torch.float32) does not match weight dtype"])],
    ids=["batch", "size", "dtype"],
)  # fmt: skip
def test_bad_packed_input_is_refused(rows, size, dtype, words):
    lstm = filled()
    with refused(ANY, *words, untouched=[lstm]):
        lstm(pack_padded_sequence(noise(2, rows, size, dtype=dtype or torch.float64),
                                  torch.full((rows,), 2)))  # fmt: skip


@every_mode
@pytest.mark.parametrize(
    "other",
    [{"hidden_size": 6}, {"num_layers": 2}, {"bidirectional": True}, {"proj_size": 2},
     {"dtype": torch.float32}],
    ids=str,
)  # fmt: skip
def test_a_state_made_for_another_kind_of_layer_is_refused(other, steps, grad):
    lstm, foreign = filled(), make(**other).new_state(S)
    version = foreign.h._version
    with refused(ANY, untouched=[lstm]):
        call(lstm, good(steps), grad, state=foreign)
    assert foreign.h._version == version


def test_a_state_that_is_no_lstm_state_is_refused():
    lstm = filled()
    with refused((*ANY, AttributeError), untouched=[lstm]):
        lstm(good(2), state=(noise(1, S, H), noise(1, S, H)))


def test_a_stateless_layer_without_a_state_has_nothing_to_index():
    with refused(ANY, "state"):
        make(stateful=False)(good(2), state_indices=ints(0, 1, 2, 3))


BAD_WHICH = {
    "mask of another size": (mask(3), (*ANY, IndexError)),
    "mask of rank 2": (mask(S, 1), (*ANY, IndexError)),
    "index beyond S": (ints(0, 4), IndexError),
    "index below -1": (ints(-2), IndexError),
    "indices of rank 2": (ints(0, 1)[None], ANY),
    "floats": (torch.zeros(S), TypeError),
    "uint8, once a mask": (torch.zeros(S, dtype=torch.uint8), TypeError),
    "a string": ("all", (*ANY, AttributeError)),
}


@pytest.mark.parametrize("case", BAD_WHICH)
@pytest.mark.parametrize("method", ["reset", "read", "write", "reset_state"])
def test_rows_that_do_not_exist_are_refused(case, method):
    which, kinds = BAD_WHICH[case]
    lstm = filled()
    with refused(kinds, untouched=[lstm]):
        if method == "reset_state":
            lstm.reset_state(which)
        elif method == "write":
            count = which.numel() if isinstance(which, torch.Tensor) else S
            lstm.state.write((noise(1, count, H), noise(1, count, H)), which)
        else:
            getattr(lstm.state, method)(which)


@pytest.mark.parametrize(
    ("hc", "which"),
    [
        ((noise(1, 3, H), noise(1, 3, H)), None),
        ((noise(1, S, H), noise(1, S, 6)), None),
        ((noise(1, S, H), noise(1, 1, H)), None),  # would broadcast
        ((noise(2, S, H), noise(2, S, H)), None),
        ((noise(S, H), noise(S, H)), None),
        ((noise(1, S, H), noise(1, S, H)), ints(0, 1)),
        ((noise(1, 1, H), noise(1, 1, H)), mask(S)),
        (noise(2, 1, S, H), ints(0, 1)),
        ((noise(1, S, H),), None),
        ((noise(1, S, H).to("meta"), noise(1, S, H).to("meta")), None),
    ],
)
def test_write_checks_the_shapes_of_both_before_it_copies_either(hc, which):
    lstm = filled()
    with refused(ANY, untouched=[lstm]):
        lstm.state.write(hc, which)


@pytest.mark.parametrize("slots", [-1, 2.0, "4", None])
@pytest.mark.parametrize("method", ["allocate_state", "new_state"])
def test_a_senseless_number_of_slots_is_refused(method, slots):
    lstm = filled()
    with refused(ANY, untouched=[lstm]):
        getattr(lstm, method)(slots)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"recurrent_dropout": 1.0}, ValueError),
        ({"recurrent_dropout": -0.1}, ValueError),
        ({"recurrent_dropout": 1.5}, ValueError),
        ({"recurrent_dropout": float("nan")}, ValueError),
        ({"recurrent_dropout": "half"}, (ValueError, TypeError)),
        ({"recompute": "nope"}, ValueError),
        ({"recompute": None}, (ValueError, TypeError)),
        ({"nonlinearity": "relu"}, TypeError),
        ({"proj_size": 5}, ValueError),
        ({"proj_size": -1}, ValueError),
        ({"num_layers": 0}, ValueError),
        ({"hidden_size": 0}, ValueError),
        ({"hidden_size": 5.0}, TypeError),
        ({"input_size": 0}, ValueError),
        ({"dropout": 1.5}, ValueError),
        ({"dropout": True}, ValueError),
    ],
    ids=str,
)
def test_bad_constructor_arguments_are_refused(options, kinds):
    with refused(kinds, next(iter(options)) if "nonlinearity" not in options else ""):
        StatefulLSTM(**{"input_size": N, "hidden_size": H, **options})


def test_dropout_that_does_nothing_is_warned_of_as_in_nn_lstm():
    with pytest.warns(UserWarning, match="dropout"):
        nn.LSTM(N, H, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout"):
        StatefulLSTM(N, H, dropout=0.5)


def weights():
    return [p.detach() for p in make().parameters()]


@pytest.mark.parametrize(
    ("options", "kinds", "words"),
    [
        ({"backend": "nope"}, (ValueError, RuntimeError), ["nope"]),
        ({"recompute": "nope"}, ValueError, ["nope"]),
        ({"bias": False}, ANY, ["weight"]),
        ({"num_layers": 2}, ANY, ["weight"]),
        ({"bidirectional": True}, ANY, ["weight"]),
        ({"proj_size": 2}, ANY, ["weight"]),
        ({"lengths": ints(1, 1, 1, 9)}, ValueError, ["lengths"]),
        ({"reset_mask": mask(2, S).int()}, TypeError, ["reset_mask"]),
    ],
    ids=["backend", "recompute", "bias", "layers", "directions", "proj_size", "lengths", "mask"],
)
def test_the_function_refuses_bad_arguments(options, kinds, words):
    with refused(kinds, *words):
        stateful_lstm.lstm(good(2), None, weights(), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_cuda_backend_is_refused_where_there_is_none_and_says_why():
    with refused(RuntimeError, "cuda"):
        stateful_lstm.lstm(good(2), None, weights(), backend="cuda")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda states: states.update(nobody=states["a"]),
        lambda states: states.update(b=(noise(1, 2, 9), noise(1, 2, 9))),
        lambda states: states.update(b=(noise(1, S, H),)),
        lambda states: states.update(b=None),
    ],
    ids=["unknown name", "wrong shape", "half of it", "None"],
)
def test_set_state_refuses_a_misfit_before_it_writes_anything(break_it):
    model = nn.ModuleDict({"a": filled(), "b": filled()})
    states = {name: (h + 1, c + 1) for name, (h, c) in stateful_lstm.get_state(model).items()}
    break_it(states)
    with refused((*ANY, KeyError), untouched=list(model.values())):
        stateful_lstm.set_state(model, states)


def test_a_failed_call_under_preserve_state_changes_nothing_either():
    lstm = filled()
    before = snapshot(lstm.state)
    with refused(ValueError, "6"), lstm.preserve_state():
        lstm(noise(2, 6, N))
    assert_unmoved(before, lstm.state)
