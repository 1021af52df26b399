"""from_keras and to_keras: Keras's own results from recorded arrays, and live layers.

tests/interop/recorded/record_layers.py recorded the arrays. Live layers are stand-ins here; the
real ones are in tests/ecosystem/test_keras_live.py.
"""

from pathlib import Path

import keras_stand_ins as stand_ins
import numpy as np
import pytest
import torch
from other_defaults import OTHER_DEFAULTS
from state_support import make, noise
from torch import nn

from stateful_lstm import StatefulLSTM
from stateful_lstm.interop import from_keras, to_keras

RECORDED = dict(np.load(Path(__file__).parent / "recorded/layers.npz"))
CASES = sorted({name.split("/")[0] for name in RECORDED if "/" in name})
ONE_WAY = [case for case in CASES if "bidirectional" not in case]
BOTH_WAYS = [case for case in CASES if "bidirectional" in case]
WINDOWS = range(3)  # Keras's layers were reset before the last one


def recorded(case):
    """The arrays of each layer, as get_weights() gave them."""
    layers = []
    while arrays := [
        RECORDED[f"{case}/weights/{len(layers)}/{number}"]
        for number in range(6)
        if f"{case}/weights/{len(layers)}/{number}" in RECORDED
    ]:
        layers.append(arrays)
    if case == "stacked cells":  # one layer of Keras, with the arrays of both cells
        layers = [layers[0][:3], layers[0][3:]]
    return layers


def tensors(case, window, *names):
    return [torch.from_numpy(RECORDED[f"{case}/{window}/{name}"]) for name in names]


def live(case, window=None, **options):
    """Stand-ins with the recorded weights, and the states that a window left."""
    states = None
    if window is not None:
        h, c = (RECORDED[f"{case}/{window}/{name}"] for name in "hc")
        states = [[h[k], c[k]] for k in range(len(h))]
        options = {"stateful": True, **options}
    weights = recorded(case)
    if case == "stacked cells":
        cells = stand_ins.StackedRNNCells([stand_ins.LSTMCell(arrays) for arrays in weights])
        return stand_ins.RNN(cells, states=states, **options)
    kind = stand_ins.Bidirectional if "bidirectional" in case else stand_ins.LSTM
    layers, each = [], 2 if "bidirectional" in case else 1
    for k, arrays in enumerate(weights):
        own = None
        if states is not None:
            own = [state for hc in states[k * each : (k + 1) * each] for state in hc]
        layers.append(kind(arrays, states=own, **options))
    return layers[0] if len(layers) == 1 else stand_ins.Sequential(layers)


def close(found, expected, what):
    torch.testing.assert_close(
        found, expected, atol=2e-6, rtol=1e-5, msg=lambda text: f"{what}: {text}"
    )


@torch.no_grad()
def check_windows(lstm, case, windows=WINDOWS):
    """Resident state, or with two directions hx, for Keras carries on both."""
    hx = None
    for window in windows:
        if window == 2:
            lstm.reset_state()
            hx = None
        x, output, h, c = tensors(case, window, "x", "output", "h", "c")
        y, (h_n, c_n) = lstm(x, hx)
        close(y, output, f"window {window}: output")
        close(h_n, h, f"window {window}: h")
        close(c_n, c, f"window {window}: c")
        if lstm.bidirectional:
            hx = (h_n, c_n)
        else:
            close(lstm.state.h, h, f"window {window}: resident h")


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("case", CASES)
def test_arrays_compute_what_keras_did(case):
    lstm = from_keras(recorded(case))
    assert type(lstm) is StatefulLSTM and lstm.stateful and lstm.batch_first
    check_windows(lstm, case)


def test_arrays_of_one_layer_need_no_list_around():
    for case in ("single", "no bias", "bidirectional", "bidirectional no bias"):
        (arrays,) = recorded(case)
        check_windows(from_keras(tuple(arrays)), case)


def test_layout_statefulness_and_dtype_are_arguments():
    arrays = [array.astype(np.float64) for array in recorded("single")[0]]
    lstm = from_keras(arrays, batch_first=False, stateful=False)
    assert not lstm.batch_first and not lstm.stateful
    assert {p.dtype for p in lstm.parameters()} == {torch.float64}
    x, output = tensors("single", 0, "x", "output")
    with torch.no_grad():
        for _ in range(2):
            close(lstm(x.transpose(0, 1).double())[0].transpose(0, 1), output.double(), "output")
    assert from_keras(arrays, dtype=torch.float32).weight_hh_l0.dtype == torch.float32
    assert from_keras(arrays, device="meta").weight_hh_l0.is_meta


def test_arrays_may_be_read_only_and_of_any_layout():
    (arrays,) = recorded("single")
    for array in (given := [np.array(array, order="F") for array in arrays]):
        array.setflags(write=False)
    check_windows(from_keras(given), "single")


def test_bfloat16_arrays():
    """numpy has no bfloat16 of its own: Keras's come from ml_dtypes."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    (arrays,) = recorded("single")
    lstm = from_keras([array.astype(bfloat16) for array in arrays])
    expected = torch.from_numpy(arrays[0]).T.to(torch.bfloat16)
    assert lstm.weight_ih_l0.dtype == torch.bfloat16 and torch.equal(lstm.weight_ih_l0, expected)


@pytest.mark.parametrize("default", OTHER_DEFAULTS)
def test_another_default_device_or_dtype_changes_nothing(default):
    layer = live(ONE_WAY[0], window=0)
    before = from_keras(layer)
    arrays = to_keras(before)
    with default():
        after = from_keras(layer, device="cpu")
        again = to_keras(after)
    for ours, theirs in zip(again[0], arrays[0], strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    for ours, theirs in zip(after.state.read(), before.state.read(), strict=True):
        assert torch.equal(ours, theirs)


# ---------------------------------------------------------------- live layers


@pytest.mark.parametrize("case", ONE_WAY)
def test_a_live_layer_brings_its_state(case):
    lstm = from_keras(live(case, window=0))
    assert lstm.state.slots == 3
    check_windows(lstm, case, windows=(1, 2))


@pytest.mark.parametrize("case", BOTH_WAYS)
def test_a_stateful_bidirectional_layer_must_be_told_which_way(case):
    with pytest.raises(ValueError, match=r"both directions.*stateful=True.*stateful=False.*hx"):
        from_keras(live(case, window=0))
    check_windows(from_keras(live(case, window=0), stateful=False), case)
    # Resident: the states came, and from a reset on the first window is Keras's.
    lstm = from_keras(live(case, window=0), stateful=True)
    for name, expected in zip("hc", tensors(case, 0, "h", "c"), strict=True):
        assert torch.equal(getattr(lstm.state, name), expected)
    lstm.reset_state()
    x, output = tensors(case, 0, "x", "output")
    with torch.no_grad():
        close(lstm(x)[0], output, "output")


@pytest.mark.parametrize("case", CASES)
def test_a_live_layer_that_is_not_stateful(case):
    lstm = from_keras(live(case))
    assert not lstm.stateful and lstm.state is None
    x, output = tensors(case, 0, "x", "output")
    with torch.no_grad():
        close(lstm(x)[0], output, "output")


def test_a_list_may_mix_layers_and_arrays():
    first, second = recorded("stacked")
    check_windows(from_keras([stand_ins.LSTM(first, stateful=True), second]), "stacked")


def test_options_come_along():
    (arrays,) = recorded("single")
    cell = {"recurrent_dropout": 0.25, "unit_forget_bias": True}
    lstm = from_keras(stand_ins.LSTM(arrays, cell, stateful=True))
    assert lstm.stateful and lstm.state is None
    assert (lstm.recurrent_dropout, lstm.unit_forget_bias, lstm.dropout) == (0.25, True, 0.0)
    close(lstm.bias_ih_l0.detach(), torch.from_numpy(arrays[2]), "1 is added at a reset only")
    lstm = from_keras(stand_ins.LSTM(arrays, {"unit_forget_bias": False}))
    assert not lstm.unit_forget_bias
    assert not from_keras(stand_ins.LSTM(recorded("no bias")[0])).unit_forget_bias


def test_dropout_of_inputs_is_left_out_with_a_warning():
    (arrays,) = recorded("single")
    with pytest.warns(UserWarning, match=r"dropout=0\.5 is left out") as caught:
        lstm = from_keras(stand_ins.LSTM(arrays, {"dropout": 0.5}))
    assert caught[0].filename == __file__
    assert lstm.dropout == 0.0


# ---------------------------------------------------------------- to_keras


@pytest.mark.parametrize("case", CASES)
def test_keras_gets_its_own_arrays_back(case):
    given = recorded(case)
    found = to_keras(from_keras(given))
    assert [len(arrays) for arrays in found] == [len(arrays) for arrays in given]
    for ours, theirs in zip(found, given, strict=True):
        for array, expected in zip(ours, theirs, strict=True):
            assert array.dtype == np.float32 and array.flags.c_contiguous
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, StatefulLSTM])
def test_there_and_back_computes_the_same(kind, bias, bidirectional):
    there = kind(3, 5, 2, bias=bias, bidirectional=bidirectional, dtype=torch.float64)
    back = from_keras(to_keras(there), batch_first=False)
    x = noise(6, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(back(x), there(x))


def test_the_arrays_are_copies():
    lstm = make(input_size=1, hidden_size=1)  # whose transpose could be the same memory
    before = {name: tensor.clone() for name, tensor in lstm.state_dict().items()}
    for array in to_keras(lstm)[0]:
        array.fill(7)
    for name, tensor in lstm.state_dict().items():
        assert torch.equal(tensor, before[name])
    (arrays,) = recorded("single")
    kept = [array.copy() for array in arrays]
    with torch.no_grad():
        for parameter in from_keras(arrays).parameters():
            parameter.fill_(7)
    for array, expected in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_bfloat16_goes_out_as_float32():
    lstm = make(dtype=torch.bfloat16)
    kernel, _, bias = to_keras(lstm)[0]
    assert kernel.dtype == bias.dtype == np.float32
    expected = lstm.bias_ih_l0.float() + lstm.bias_hh_l0.float()
    assert torch.equal(torch.from_numpy(bias), expected.detach())


def test_to_keras_refuses():
    with pytest.raises(ValueError, match=r"Keras.*no projection.*proj_size=2"):
        to_keras(make(proj_size=2))
    with pytest.raises(TypeError, match="got GRU"):
        to_keras(nn.GRU(3, 5))


# ---------------------------------------------------------------- what from_keras refuses

K, R, b = (np.ones(shape, np.float32) for shape in ((2, 20), (5, 20), (20,)))
UPPER = [np.ones((5, 20), np.float32), R, b]
hard = {"recurrent_activation": stand_ins.hard_sigmoid}


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        # arrays
        ([], ValueError, "empty"),
        ([K], ValueError, "got 1 arrays"),
        ([K, R, b, *UPPER, K], ValueError, "got 7 arrays.*list of such lists"),
        ([K, R, b, *UPPER], ValueError, r"layer 0: the kernel must have shape \(2, 20\), got \(5"),
        ([K.T, R, b], ValueError, r"kernel must have shape \(I, 4 \* units\), got \(20, 2\)"),
        ([K, R.T, b], ValueError, r"recurrent kernel must have shape \(5, 20\), got \(20, 5\)"),
        ([K, R, b[:5]], ValueError, r"bias must have shape \(20,\), got \(5,\)"),
        ([b, R, b], ValueError, r"kernel must have shape \(I, 4 \* units\), got \(20,\)"),
        ([[K, R, b], [K, R, b]], ValueError, r"layer 1: the kernel must have shape \(5, 20\)"),
        ([[K, R, b], UPPER[:2]], ValueError, "all have a bias, or none"),
        ([[K, R, b], UPPER * 2], ValueError, "number of directions: layer 0 has 1, layer 1 has 2"),
        ([a.astype(np.int64) for a in (K, R, b)], ValueError, "one dtype among.*float32.*int64"),
        ([K.astype(np.float64), R, b], ValueError, "one dtype.*float32.*float64"),
        ([[K, R, "bias"]], TypeError, "list of .*ndarray.*str"),
        ("weights.h5", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        # live layers
        (stand_ins.LSTM([]), ValueError, "LSTM 'some_rnn' has no weights yet: build it"),
        (stand_ins.LSTM([K, R, b], hard), ValueError, "recurrent_activation='sigmoid', got 'hard_"),
        (
            stand_ins.LSTM([K, R, b], {"activation": stand_ins.sigmoid}),
            ValueError,
            "on='tanh', got",
        ),
        (stand_ins.LSTM([K, R, b], go_backwards=True), ValueError, "go_backwards=False, got True"),
        (stand_ins.LSTM([K, R, b], time_major=True), ValueError, "time_major.*batch_first=False"),
        (stand_ins.LSTM([K, R, b, b]), ValueError, "got 4 arrays"),
        (stand_ins.GRU(stand_ins.LSTMCell([K, R, b])), TypeError, "got GRU 'some_rnn'"),
        (stand_ins.RNN(stand_ins.Dense()), TypeError, "got RNN 'some_rnn'"),
        (
            stand_ins.Sequential([stand_ins.LSTM([K, R, b]), stand_ins.Dense()]),
            TypeError,
            "got Dense 'head'",
        ),
        (stand_ins.Sequential([]), ValueError, "empty"),
        (stand_ins.Bidirectional([K, R, b] * 2, "sum"), ValueError, "'concat', got 'sum'"),
        (stand_ins.Bidirectional([K, R, b] * 2, None), ValueError, "'concat', got None"),
        (
            stand_ins.Bidirectional([K, R, b] * 2, go_backwards=False),
            ValueError,
            "go_backwards=True, got False",
        ),
    ],
)
def test_refused(given, kind, words):
    with pytest.raises(kind, match=words):
        from_keras(given)


def test_knows_keras_s_classes_from_others_of_the_same_name():
    class LSTM(stand_ins.LSTM):
        """A user's, whose call may be anything."""

    for given in (LSTM([K, R, b]), torch.nn.Sequential(torch.nn.LSTM(2, 5))):
        with pytest.raises(TypeError, match=rf"expected arrays.*got {type(given).__name__}"):
            from_keras(given)

    def sigmoid(x):
        """As much a user's."""

    with pytest.raises(ValueError, match=r"='sigmoid', got 'test_interop_keras\.sigmoid'"):
        from_keras(stand_ins.LSTM([K, R, b], {"recurrent_activation": sigmoid}))
    with pytest.raises(TypeError, match="stateful must be True, False or None, got 'yes'"):
        from_keras([K, R, b], stateful="yes")


def test_the_advice_for_stacks_is_for_stacks():
    with pytest.raises(ValueError, match=r"got \(5, 20\)$"):
        from_keras([K, R, b, *UPPER])
    with pytest.raises(ValueError, match=r"In a stack all layers have the same units"):
        from_keras([[K, R, b], [K, R, b]])


def test_variables_of_keras_on_torch():
    found = from_keras([torch.nn.Parameter(torch.from_numpy(array)) for array in (K, R, b)])
    assert torch.equal(found.weight_ih_l0, torch.from_numpy(K.T))


def test_refuses_layers_with_unlike_options():
    first, second = recorded("stacked")
    stateful, plain = stand_ins.LSTM(first, stateful=True), stand_ins.LSTM(second)
    with pytest.raises(ValueError, match="some layers are stateful"):
        from_keras([stateful, plain])
    assert from_keras([stateful, plain], stateful=True).stateful
    drops = stand_ins.LSTM(second, {"recurrent_dropout": 0.5})
    with pytest.raises(ValueError, match=r"same recurrent_dropout, got \[0\.0, 0\.5\]"):
        from_keras([stand_ins.LSTM(first), drops])
    layer = stand_ins.Bidirectional(recorded("bidirectional")[0])
    layer.backward_layer.cell.recurrent_dropout = 0.5
    with pytest.raises(ValueError, match="both directions must be alike"):
        from_keras(layer)
    cells = [stand_ins.LSTMCell(first), stand_ins.LSTMCell(second)]
    layer.forward_layer = stand_ins.RNN(stand_ins.StackedRNNCells(cells))
    with pytest.raises(ValueError, match="stacked cells inside Bidirectional"):
        from_keras(layer)


def test_what_any_layer_of_a_stack_says_counts():
    first, second = recorded("stacked")
    upper = stand_ins.LSTM(second, {"dropout": 0.5, "unit_forget_bias": False})
    with pytest.warns(UserWarning, match=r"dropout=0\.5 is left out"):
        assert not from_keras([stand_ins.LSTM(first), upper]).unit_forget_bias
