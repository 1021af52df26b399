"""export_onnx: standard LSTM nodes that give the layer's results in ONNX Runtime."""

import sys

import pytest
import torch
from other_defaults import OTHER_DEFAULTS
from state_support import assert_unmoved, close, make, noise, snapshot
from torch import nn
from torch.nn.utils import prune

from stateful_lstm import StatefulLSTM
from stateful_lstm.interop import export_onnx

onnx = pytest.importorskip("onnx", reason="export_onnx needs onnx: requirements/interop.txt")
ort = pytest.importorskip("onnxruntime", reason="no onnxruntime, which not every Python has")

pytestmark = pytest.mark.usefixtures("one_thread")

every_layout = pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "both_ways"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lstm.onnx"


class Session:
    """The file in ONNX Runtime: tensors in and out, as from the layer."""

    def __init__(self, path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, x, hc, lengths=None):
        feed = dict(zip(("input", "h_0", "c_0"), (x, *hc), strict=True))
        if lengths is not None:
            feed["lengths"] = lengths.to(torch.int32)
        feed = {name: tensor.detach().numpy() for name, tensor in feed.items()}
        names = ["output", "h_n", "c_n"]
        output, h_n, c_n = (torch.from_numpy(a) for a in self.session.run(names, feed))
        return output, (h_n, c_n)


def zeros(lstm, B):
    rows = lstm.num_layers * (2 if lstm.bidirectional else 1)
    return tuple(
        torch.zeros(rows, B, lstm.hidden_size, dtype=lstm.weight_hh_l0.dtype) for _ in "hc"
    )


def window(lstm, T, B, seed):
    shape = (B, T) if lstm.batch_first else (T, B)
    return noise(*shape, lstm.input_size, seed=seed, dtype=lstm.weight_hh_l0.dtype)


@every_layout
@directions
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_windows_go_on_as_in_the_resident_layer(path, num_layers, bias, bidirectional, batch_first):
    lstm = make(
        num_layers=num_layers,
        bias=bias,
        bidirectional=bidirectional,
        batch_first=batch_first,
        dtype=torch.float32,
    )
    export_onnx(lstm, path)
    run = Session(path)
    for B in (3, 2):  # one file for any batch, and windows of any length
        lstm.reset_state()
        hc = zeros(lstm, B)
        for seed, T in enumerate((5, 1, 7)):
            x = window(lstm, T, B, seed)
            with torch.no_grad():
                expected = lstm(x)
            if bidirectional:  # the reverse direction starts from zero, as the docstring says
                for state in hc:
                    state[1::2] = 0
            output, hc = run(x, hc)
            close((output, hc), expected)
        close(hc[0], lstm.state.h)
        close(hc[1], lstm.state.c)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_both_directions_start_from_what_is_given(path, num_layers):
    lstm = nn.LSTM(3, 5, num_layers, bidirectional=True)
    export_onnx(lstm, str(path))
    run = Session(path)
    given = ours = tuple(noise(2 * num_layers, 4, 5, seed=k, dtype=torch.float32) for k in (1, 2))
    for seed in range(3):
        x = window(lstm, 6, 4, seed)
        with torch.no_grad():
            expected, ours = lstm(x, ours)
        output, given = run(x, given)
        close((output, given), (expected, ours))


@every_layout
@directions
@pytest.mark.parametrize("num_layers", [1, 2])
def test_lengths_end_rows(path, num_layers, bidirectional, batch_first):
    lstm = StatefulLSTM(3, 5, num_layers, bidirectional=bidirectional, batch_first=batch_first)
    export_onnx(lstm, path, lengths=True)
    run = Session(path)
    hc = ours = tuple(noise(*zeros(lstm, 4)[0].shape, seed=k, dtype=torch.float32) for k in (1, 2))
    for seed, lengths in enumerate(([6, 3, 0, 1], [0, 6, 2, 6], [6, 6, 6, 6], [0, 0, 0, 0])):
        lengths = torch.tensor(lengths)
        x = window(lstm, 6, 4, seed)
        with torch.no_grad():
            expected, ours = lstm(x, ours, lengths=lengths)
        output, hc = run(x, hc, lengths)
        close((output, hc), (expected, ours))


@every_layout
@directions
@pytest.mark.parametrize("lengths", [False, True])
def test_one_standard_node_a_layer(path, lengths, bidirectional, batch_first):
    lstm = make(num_layers=2, bidirectional=bidirectional, batch_first=batch_first).float()
    model = export_onnx(lstm, path, lengths=lengths)
    assert onnx.load(path) == model
    onnx.checker.check_model(path, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    nodes = [node for node in model.graph.node if node.op_type == "LSTM"]
    assert len(nodes) == 2
    for node in nodes:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        expected = b"bidirectional" if bidirectional else b"forward"
        assert attributes == {"hidden_size": 5, "direction": expected}

    def sizes(values):
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in values
        }

    rows = 4 if bidirectional else 2
    axes = ["batch", "time"] if batch_first else ["time", "batch"]
    state = [rows, "batch", 5]
    asked = {"lengths": ["batch"]} if lengths else {}
    assert sizes(model.graph.input) == {"input": [*axes, 3], "h_0": state, "c_0": state, **asked}
    width = rows // 2 * 5
    assert sizes(model.graph.output) == {"output": [*axes, width], "h_n": state, "c_n": state}


@pytest.mark.parametrize("opset", [14, 21])
def test_older_and_newer_operators(path, opset):
    lstm = make(num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float32)
    model = export_onnx(lstm, path, opset=opset, lengths=True)
    assert [each.version for each in model.opset_import] == [opset]
    x, hc, lengths = window(lstm, 4, 3, 1), zeros(lstm, 3), torch.tensor([4, 2, 0])
    with torch.no_grad():
        close(Session(path)(x, hc, lengths), lstm(x, hc, lengths=lengths))


def test_float16_runs(path):
    lstm = make(num_layers=2, dtype=torch.float16)
    export_onnx(lstm, path)
    run, hc = Session(path), zeros(lstm, 3)
    for seed in range(3):
        x = window(lstm, 4, 3, seed)
        with torch.no_grad():
            output, ours = lstm(x)
        found, hc = run(x, hc)
        assert found.dtype == hc[1].dtype == torch.float16
        # c is below 2, where float16 is 2^-10 apart; it is rounded once a window here, not in ours.
        close((found, hc), (output, ours), atol=4 * 2**-10, rtol=0)


@directions
def test_float64_by_the_reference_of_onnx(path, bidirectional):
    """ONNX Runtime has no float64 LSTM; onnx's own slow one also is a second opinion."""
    reference = pytest.importorskip("onnx.reference")
    lstm = make(num_layers=2, bidirectional=bidirectional, stateful=False)
    export_onnx(lstm, path)
    x, hc = window(lstm, 5, 3, 1), tuple(noise(*zeros(lstm, 3)[0].shape, seed=k) for k in (2, 3))
    feed = dict(zip(("input", "h_0", "c_0"), (t.numpy() for t in (x, *hc)), strict=True))
    found = reference.ReferenceEvaluator(str(path)).run(["output", "h_n", "c_n"], feed)
    with torch.no_grad():
        output, (h_n, c_n) = lstm(x, hc)
    for array, expected in zip(found, (output, h_n, c_n), strict=True):
        close(torch.from_numpy(array), expected)


def test_bfloat16_needs_operators_that_have_it(path):
    lstm = make(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"opset 22 on, got opset=17.*float\(\)"):
        export_onnx(lstm, path)
    assert not path.exists()
    if onnx.defs.onnx_opset_version() < 22:
        pytest.skip("this onnx ends before opset 22")
    model = export_onnx(lstm, path, opset=22)
    W = next(each for each in model.graph.initializer if each.name == "W_l0")
    assert W.data_type == onnx.TensorProto.BFLOAT16
    i, f, g, o = lstm.weight_ih_l0.detach().chunk(4)
    found = torch.frombuffer(bytearray(W.raw_data), dtype=torch.bfloat16).view(1, 20, 3)
    assert torch.equal(found[0], torch.cat([i, o, f, g]))


def test_weights_go_out_as_they_are(path):
    lstm = make(num_layers=2, dtype=torch.float32)
    nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)
    prune.l1_unstructured(lstm, "weight_ih_l1", amount=0.5)
    export_onnx(lstm, path)
    x = window(lstm, 5, 3, 1)
    with torch.no_grad():
        close(Session(path)(x, zeros(lstm, 3)), lstm(x))


def test_training_mode_and_state_have_no_part_in_it(path):
    lstm = make(num_layers=2, dropout=0.5, recurrent_dropout=0.5, dtype=torch.float32)
    x = window(lstm, 5, 3, 1)
    lstm(x)
    before, seed = snapshot(lstm.state), torch.get_rng_state()
    export_onnx(lstm, path)
    assert_unmoved(before, lstm.state)
    assert lstm.training and torch.equal(torch.get_rng_state(), seed)
    found = Session(path)(x, lstm.state.read())  # what to begin with, to go on from the state
    with torch.no_grad():
        close(found, lstm.eval()(x))


@pytest.mark.parametrize(
    ("build", "options", "kind", "words"),
    [
        (lambda: make(proj_size=2), {}, ValueError, "ONNX.*no projection.*got proj_size=2"),
        (lambda: nn.GRU(3, 5), {}, TypeError, "expected an nn.LSTM or a StatefulLSTM, got GRU"),
        (lambda: nn.Sequential(make()), {}, TypeError, "got Sequential.*the layer inside"),
        (make, {"opset": 13}, ValueError, "opset must be 14 to .*, got 13"),
        (make, {"opset": 999}, ValueError, "opset must be 14 to .*, got 999"),
    ],
)
def test_refused(path, build, options, kind, words):
    with pytest.raises(kind, match=words):
        export_onnx(build(), path, **options)
    assert not path.exists()


def test_a_model_that_onnx_finds_wrong_is_not_written(path, monkeypatch):
    def wrong(*args, **options):
        raise onnx.checker.ValidationError("on purpose")

    monkeypatch.setattr(onnx.checker, "check_model", wrong)
    with pytest.raises(onnx.checker.ValidationError, match="on purpose"):
        export_onnx(make(), path)
    assert not path.exists()


@pytest.mark.parametrize("opset", ["17", 17.0, True])
def test_an_opset_is_a_number(path, opset):
    with pytest.raises(TypeError, match="opset must be a number, got"):
        export_onnx(make(), path, opset=opset)
    assert not path.exists()


def test_refuses_weights_of_several_dtypes(path):
    lstm = make(dtype=torch.float32)
    lstm.weight_hh_l0.data = lstm.weight_hh_l0.data.double()
    with pytest.raises(ValueError, match=r"one dtype.*float32.*float64"):
        export_onnx(lstm, path)
    lstm = make().to(torch.float8_e4m3fn)
    with pytest.raises(TypeError, match=r"float32.*got torch\.float8_e4m3fn"):
        export_onnx(lstm, path)
    assert not path.exists()


def test_without_onnx_it_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        export_onnx(make(), path)


@pytest.mark.parametrize("default", OTHER_DEFAULTS)
def test_another_default_device_or_dtype_changes_nothing(path, default):
    lstm = make(num_layers=2).float()
    before = export_onnx(lstm, path, lengths=True).SerializeToString()
    with default():
        assert export_onnx(lstm, path, lengths=True).SerializeToString() == before
