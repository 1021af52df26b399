"""A whole model through torch.onnx.export with onnx_translations."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.onnx
from state_support import close
from torch import nn

from stateful_lstm import StatefulLSTM
from stateful_lstm.interop import onnx_translations

pytest.importorskip("onnxscript", reason="torch.onnx.export needs it: requirements/interop.txt")
ort = pytest.importorskip("onnxruntime", reason="no onnxruntime, which not every Python has")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # What torch's exporter and onnxscript say of each other is theirs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


class Model(nn.Module):
    """Something before the layer and after it; the states go in and out."""

    def __init__(self, **options):
        super().__init__()
        self.before = nn.Linear(4, 3)
        self.lstm = StatefulLSTM(3, 5, **{"stateful": False, **options})
        directions = 2 if self.lstm.bidirectional else 1
        self.after = nn.Linear(5 * directions, 2)

    def forward(self, x, h, c, lengths=None):
        y, (h, c) = self.lstm(self.before(x), (h, c), lengths=lengths)
        return self.after(y), h, c


HALF = {"rtol": 4e-3, "atol": 4e-3}  # of the other layers, too


def inputs(model, T, B):
    lstm = model.lstm
    rows = lstm.num_layers * (2 if lstm.bidirectional else 1)
    kind = {"dtype": lstm.weight_hh_l0.dtype}
    x = torch.randn(*((B, T) if lstm.batch_first else (T, B)), 4, **kind)
    return x, torch.randn(rows, B, 5, **kind), torch.randn(rows, B, 5, **kind)


def export(model, path, T=4, B=2, **options):
    """With T and B open, of whatever size they are in the example."""
    free = torch.export.Dim.DYNAMIC
    rows, steps = {1: free}, {0: free, 1: free}
    shapes = {"x": steps, "h": rows, "c": rows, "lengths": {0: free}}
    given = dict(zip("xhc", inputs(model, T, B), strict=True)) | options
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            kwargs=given,
            dynamic_shapes={name: shapes[name] for name in given},
            dynamo=True,
            verbose=False,
            custom_translation_table=onnx_translations(),
        )
    program.save(path)
    return [node.op_type for node in program.model.graph]


def run(path, *given):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), given, strict=True)}
    return tuple(torch.from_numpy(array) for array in session.run(None, feed))


@pytest.mark.sampled(most=1)
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5},
        {"bias": False},
        {"dtype": torch.float16},  # whose layers are float32 inside
    ],
)
def test_a_model_of_any_batch_and_time(tmp_path, options):
    model, path = Model(**options).eval(), tmp_path / "model.onnx"
    model.to(model.lstm.weight_ih_l0.dtype)
    operators = export(model, path)
    count = model.lstm.num_layers * (2 if model.lstm.bidirectional else 1)
    assert operators.count("LSTM") == count
    for T, B in ((7, 3), (1, 1)):
        given = inputs(model, T, B)
        with torch.no_grad():
            rounding = {} if model.lstm.weight_ih_l0.dtype != torch.float16 else HALF
            close(run(path, *given), model(*given), **rounding)


def test_lengths_go_along(tmp_path):
    model, path = Model(bidirectional=True).eval(), tmp_path / "model.onnx"
    export(model, path, lengths=torch.tensor([4, 2]))
    given, lengths = inputs(model, 6, 3), torch.tensor([0, 6, 3])
    with torch.no_grad():
        close(run(path, *given, lengths), model(*given, lengths=lengths))


def test_the_exporter_hands_errors_on(tmp_path):
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as caught:
        export(Model().bfloat16().eval(), tmp_path / "model.onnx")
    assert re.search(
        "bfloat16 cannot be exported: export it in float32", str(caught.value), re.IGNORECASE
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reset_mask": "a node"}, "no reset_mask"),
        ({"weight_hr": "a node"}, "no projection"),
        ({"recurrent_mask": "a node"}, r"no dropout: call eval\(\)"),
        ({"c0": SimpleNamespace(dtype="FLOAT")}, "model in BFLOAT16 cannot be exported.*float32"),
    ],
)
def test_what_onnx_has_not(given, words):
    translate = onnx_translations()[torch.ops.stateful_lstm.lstm_forward.default]
    names = (
        "x weight_ih weight_hh bias_ih bias_hh weight_hr h0 c0 reset_mask lengths recurrent_mask"
    )
    call = dict.fromkeys(names.split()) | {"reverse": False, "save": 0}
    x = SimpleNamespace(dtype="BFLOAT16")
    with pytest.raises(ValueError, match=words):
        translate(**{**call, "x": x, "c0": x, **given})


def test_without_onnxscript_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install onnxscript"):
        onnx_translations()


def test_a_resident_state_is_refused(tmp_path):
    model = Model(stateful=True).eval()
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="cannot carry a resident state"):
        export(model, tmp_path / "model.onnx")
    assert model.lstm.state is None
