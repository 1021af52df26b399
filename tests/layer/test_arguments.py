"""Arguments in other forms: NumPy's, int32, empty ones. They are taken, or refused by name."""

import numpy as np
import pytest
import torch
from state_support import make, noise
from torch.nn.utils.rnn import PackedSequence

import stateful_lstm
from stateful_lstm import StatefulLSTM


def layer(**options):
    lstm = make(dtype=torch.float32, **options)
    lstm.allocate_state(4).write((torch.ones(1, 4, 5), torch.ones(1, 4, 5)))
    return lstm


x = noise(2, 4, 3, dtype=torch.float32)
H = np.zeros((1, 4, 5), "float32")
MASK = np.zeros((2, 4), bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m(x.numpy()), r"input must be .* numpy array of float32 and shape \(2, 4, 3\)"),
        (lambda m: m(x, reset_mask=MASK), "reset_mask must be a bool tensor, got a numpy array"),
        (lambda m: m(x, lengths=np.ones(4, int)), "lengths must be an int32 or .* numpy array"),
        (lambda m: m(x, state_indices=np.arange(4)), "state_indices must be .* numpy array"),
        (lambda m: m(x, (H, H)), "hx must be .* numpy array of float32"),
        (lambda m: m(x, (torch.zeros(1, 4, 5), None)), r"hx must be .* None\)"),
        (lambda m: m(x, ()), r"a tuple of two tensors \(h_0, c_0\), got a tuple of \(\)"),
        (lambda m: m(x, state=(H, H)), "state must be an LSTMState, got a tuple of"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_a_call_refuses_arrays_by_name_and_touches_nothing(call, words, grad):
    lstm = layer()
    before = lstm.state.read()
    with torch.set_grad_enabled(grad), pytest.raises(TypeError, match=words):
        call(lstm)
    assert all(map(torch.equal, lstm.state.read(), before))


def test_the_functions_refuse_arrays_by_name():
    weights = [w.detach() for w in layer().parameters()]
    for function in (stateful_lstm.lstm, stateful_lstm.reference.lstm):
        with pytest.raises(TypeError, match=r"input must be .* numpy array"):
            function(x.numpy(), None, weights)
        with pytest.raises(TypeError, match=r"hx must be .* numpy array"):
            function(x, (H, H), weights)
        with pytest.raises(TypeError, match=r"weights\[1\] must be a Tensor, got a numpy array"):
            function(x, None, [weights[0], weights[1].numpy(), *weights[2:]])


def test_sizes_may_be_numpys_integers():
    lstm = StatefulLSTM(np.int64(3), np.int32(5), np.int16(1), proj_size=np.int8(2))
    assert lstm(x)[0].shape == (2, 4, 2)
    assert all(type(n) is int for n in (lstm.input_size, lstm.hidden_size, lstm.proj_size))
    assert lstm.allocate_state(np.int64(8)).slots == 8
    assert lstm.new_state(np.uint8(3)).slots == 3
    assert StatefulLSTM(3, 5, recurrent_dropout=np.float32(0.5)).recurrent_dropout == 0.5


@pytest.mark.parametrize("slots", [-1, 2.0, np.float64(2), "2", None, True, np.bool_(True), [2]])
def test_slots_that_are_no_number_of_rows_are_refused(slots):
    lstm = layer()
    state = lstm.state
    for make_state in (lstm.allocate_state, lstm.new_state):
        with pytest.raises(ValueError, match="slots must be a whole number, 0 or more, got"):
            make_state(slots)
    assert lstm.state is state


@pytest.mark.parametrize("size", [5.0, "5", None])
def test_sizes_that_are_no_integers_are_refused_as_nn_lstm_does(size):
    with pytest.raises(TypeError) as theirs:
        torch.nn.LSTM(3, size)
    with pytest.raises(TypeError) as ours:
        StatefulLSTM(3, size)
    assert str(ours.value) == str(theirs.value)


SELECTED = {
    "int64": torch.tensor([2, 0]),
    "int32": torch.tensor([2, 0], dtype=torch.int32),
    "list": [2, 0],
    "tuple": (2, 0),
    "array": np.array([2, 0]),
    "array of int32": np.array([2, 0], "int32"),
    "mask": torch.tensor([True, False, True, False]),
    "list of bools": [True, False, True, False],
    "array of bools": np.array([True, False, True, False]),
}


@pytest.mark.parametrize("which", SELECTED.values(), ids=SELECTED)
def test_slots_are_selected_by_whatever_is_at_hand(which):
    lstm = layer()
    lstm.reset_state(which)
    assert lstm.state.h[0, :, 0].tolist() == [0, 1, 0, 1]
    assert lstm.state.c[0, :, 0].tolist() == [0, 1, 0, 1]
    assert not lstm.state.read(which)[0].any()
    h, c = torch.full((1, 2, 5), 3.0), np.full((1, 2, 5), 4.0, "float32")
    lstm.state.write((h, c), which)
    assert lstm.state.h[0, :, 0].tolist() == [3, 1, 3, 1]
    assert lstm.state.c[0, :, 0].tolist() == [4, 1, 4, 1]


EMPTY = {
    "list": [],
    "tuple": (),
    "array": np.array([]),
    "array of int64": np.array([], int),
    "tensor": torch.tensor([]),
    "int32": torch.tensor([], dtype=torch.int32),
    "mask": torch.zeros(4, dtype=torch.bool),
}


@pytest.mark.parametrize("which", EMPTY.values(), ids=EMPTY)
def test_an_empty_selection_selects_nothing(which):
    lstm = layer()
    before = lstm.state.read()
    lstm.reset_state(which)
    stateful_lstm.reset_state(lstm, which)
    h, c = lstm.state.read(which)
    assert h.shape == c.shape == (1, 0, 5)
    lstm.state.write((h, c), which)
    assert all(map(torch.equal, lstm.state.read(), before))


@pytest.mark.parametrize(
    ("which", "kind", "words"),
    [
        (torch.tensor([0, 0, 1, 0]), ValueError, r"named once, got \[0, 0, 1, 0\].*mask.bool\(\)"),
        (np.array([1, 1, 0, 1], "int32"), ValueError, "each slot may be named once"),
        ([9], IndexError, "slots must be 0 to 3, got 9$"),
        ([9, 1, -1], IndexError, "slots must be 0 to 3, got 9, -1$"),
        (range(4, 9), IndexError, r"got 4, 5, 6, \.\.\.$"),
        (np.zeros(4), TypeError, "int32 or int64 indices, got a tensor of torch.float64"),
        (torch.zeros(4, dtype=torch.uint8), TypeError, "got a tensor of torch.uint8"),
        (torch.zeros(3, dtype=torch.bool), ValueError, r"must have shape \(4,\), got \(3,\)"),
        (torch.zeros(0, dtype=torch.bool), ValueError, r"must have shape \(4,\), got \(0,\)"),
        (torch.zeros(2, 2, dtype=torch.long), ValueError, "must be 1-D, got 2-D"),
    ],
)
def test_wrong_selections_are_refused_before_anything_is_reset(which, kind, words):
    lstm = layer()
    before = lstm.state.read()
    for reset in (lstm.reset_state, lstm.state.reset, lambda w: stateful_lstm.reset_state(lstm, w)):
        with pytest.raises(kind, match=words):
            reset(which)
    assert all(map(torch.equal, lstm.state.read(), before))


def test_a_state_may_be_read_twice_from_one_slot():
    h, c = layer().state.read([1, 1, 1])
    assert h.shape == c.shape == (1, 3, 5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("T", [1, 2, 9])
@pytest.mark.parametrize("grad", [False, True])
def test_lengths_may_be_int32(dtype, T, grad):
    results = []
    for kind in (torch.int64, dtype):
        lstm = layer(batch_first=True)
        with torch.set_grad_enabled(grad):
            lengths = torch.tensor([T, 0, 1, T // 2], dtype=kind)
            results.append(lstm(noise(4, T, 3, dtype=torch.float32), lengths=lengths)[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float32, torch.bool])
def test_lengths_of_another_dtype_are_refused(dtype):
    with pytest.raises(TypeError, match=f"int32 or int64 tensor, got a tensor of {dtype}"):
        layer()(x, lengths=torch.ones(4, dtype=dtype))


@pytest.mark.parametrize(
    ("hc", "words"),
    [
        (np.zeros((2, 1, 4, 5)), r"got a numpy array of float64 and shape \(2, 1, 4, 5\)"),
        ((H, H.astype(int)), r"got a tuple of \(a numpy array of float32 .* array of int64"),
        ((H,), r"got a tuple of \(a numpy array of float32"),
        ([], r"got a list of \(\)"),
        (None, "got None"),
        ((H, None), r", None\)"),
    ],
)
def test_states_that_are_no_pair_are_refused_by_what_came(hc, words):
    lstm = layer()
    before = lstm.state.read()
    with pytest.raises(TypeError, match=r"expected a tuple of two dense floating-point .*" + words):
        lstm.state.write(hc)
    with pytest.raises(TypeError, match=words):
        stateful_lstm.set_state(lstm, {"": hc})
    assert all(map(torch.equal, lstm.state.read(), before))


def test_states_may_be_arrays():
    lstm, twin = layer(), layer()
    h, c = noise(1, 4, 5).numpy(), noise(1, 4, 5, seed=3).numpy()
    lstm.state.write((h, c))
    stateful_lstm.set_state(twin, {"": (h, c)})
    for state in (lstm.state, twin.state):
        torch.testing.assert_close(state.h, torch.from_numpy(h).float())
        torch.testing.assert_close(state.c, torch.from_numpy(c).float())


@pytest.mark.parametrize(
    ("sizes", "rows"), [([3, 0, 3], 6), ([3, 3, 4], 10), ([3, 2], 6), ([3, 2, -1], 4), ([], 0)]
)
def test_a_packed_sequence_that_none_can_be_is_refused(sizes, rows):
    lstm = layer()
    before = lstm.state.read()
    packed = PackedSequence(noise(rows, 3, dtype=torch.float32), torch.tensor(sizes, dtype=int))
    with pytest.raises(ValueError, match="needs batch_sizes that add up"):
        lstm(packed)
    assert all(map(torch.equal, lstm.state.read(), before))


def test_other_kinds_of_selections_and_inputs_are_refused_by_name():
    lstm = layer()
    with pytest.raises(TypeError, match="int32 or int64 indices, got a slice"):
        lstm.reset_state(slice(0, 2))
    nested = torch.nested.nested_tensor([x[:, 0], x[:1, 0]], layout=torch.jagged)
    with pytest.raises(TypeError, match="must not be a nested tensor"):
        lstm(nested)
    for states in (None, x, [(H, H)]):
        with pytest.raises(TypeError, match=r"states must be a dict of \(h, c\) by name, got"):
            stateful_lstm.set_state(lstm, states)
    for function in (stateful_lstm.get_state, stateful_lstm.reset_state):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got a list of"):
            function([lstm])
    with pytest.raises(RuntimeError, match="trace a module that holds it"):
        torch.fx.symbolic_trace(lstm)
