"""Training: outputs have the bits of inference, and gradients of a row the same in every batch."""

import pytest
import torch
from invariance_support import FORMS, MARKS, Layer, assert_equal, dtypes, rows_of, sizes
from operator_support import gate_gradients
from state_support import noise, same_bits

from stateful_lstm import StatefulLSTM

pytestmark = MARKS


@dtypes
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
@pytest.mark.parametrize("config", [{}, {"bidirectional": True}, {"proj_size": 5}], ids=str)
@pytest.mark.parametrize("shape", [(80, 1), (20, 4), (6, 5), (40, 33)], ids=str)
def test_training_gives_the_outputs_of_inference(dtype, recompute, config, shape):
    # Shorter inference reads the weights in place; training packs them always.
    torch.manual_seed(6)
    lstm = StatefulLSTM(5, 33, 2, dtype=dtype, stateful=False, recompute=recompute, **config)
    x = noise(*shape, 5, dtype=dtype)
    y, (h, c) = lstm(x)
    with torch.no_grad():
        expected, hc = lstm(x)
    assert y.requires_grad
    assert_equal({"y": y, "h": h, "c": c}, {"y": expected, "h": hc[0], "c": hc[1]})


@pytest.mark.parametrize("shape", [(3000, 1), (1100, 4), (600, 5)], ids=str)
def test_training_in_ranges_gives_the_outputs_of_inference(shape):
    lstm = StatefulLSTM(5, 100, dtype=torch.float32, stateful=False)
    x = noise(*shape, 5, dtype=torch.float32)
    with torch.no_grad():
        expected = lstm(x)[0]
    assert same_bits(lstm(x)[0], expected)


def backward(layer, rows, lengths=None, reset=None, mask=None):
    """grad_gates, grad_h0, grad_c0 (and grad_hidden) of some rows."""
    rows = list(rows)
    gates, cells = layer.saved["gates"][:, rows].contiguous(), layer.saved["cells"][:, rows]
    names = ["grad_gates", "grad_h0", "grad_c0", "grad_hidden"]
    control = (
        None if reset is None else reset[:, rows],
        None if lengths is None else lengths[rows],
        None if mask is None else mask[rows],
        layer.reverse,
    )
    outs = gate_gradients(
        (layer.grads[0][:, rows], layer.grads[1][rows], layer.grads[2][rows]),
        gates,
        cells.contiguous(),
        layer.saved["y"][:, rows],
        layer.h0[rows],
        layer.c0[rows],
        layer.weights[1],
        layer.weights[4],
        control,
    )
    return dict(zip(names, outs, strict=True))


def with_gradients(layer, **controls):
    layer.saved = layer.run(range(layer.rows), save=2, **controls)
    like = (layer.saved["y"], layer.h0, layer.c0)
    layer.grads = [noise(*t.shape, seed=20 + k, dtype=t.dtype) for k, t in enumerate(like)]
    return layer


@dtypes
@sizes
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients_of_a_row_are_the_same_in_every_batch(dtype, H, form):
    layer = with_gradients(Layer(H, dtype, **(form if form.get("proj", 0) < H else {})))
    whole = backward(layer, range(12))
    assert whole["grad_gates"].any()
    for B in (1, 2, 3, 4, 5, 7, 11):
        rows = list(range(12 - B, 12))[::-1]
        assert_equal(backward(layer, rows), rows_of(whole, rows))


@dtypes
def test_gradients_of_a_row_do_not_notice_others(dtype):
    lengths = torch.tensor([24, 0, 3, 17, 24, 1, 9, 24, 23, 24, 5, 24])
    layer = Layer(33, dtype)
    controls = {"lengths": lengths, "reset": layer.reset, "mask": layer.mask}
    whole = backward(with_gradients(layer, **controls), range(12), **controls)
    for b in range(12):
        assert_equal(backward(layer, [b], **controls), rows_of(whole, [b]))
    for t in (layer.saved["gates"], layer.saved["cells"], layer.grads[0]):
        t[:, 3] = float("nan")
    rows = [b for b in range(12) if b != 3]
    assert_equal(rows_of(backward(layer, range(12), **controls), rows), rows_of(whole, rows))


@dtypes
def test_gradients_by_any_number_of_threads(dtype, threads):
    layer = with_gradients(Layer(100, dtype, rows=40))
    threads(1)
    whole = backward(layer, range(40))
    for count in (2, 3, 7):
        threads(count)
        for B in (1, 5, 13, 40):
            assert_equal(backward(layer, range(B)), rows_of(whole, list(range(B))))
