"""Calls of few rows read the weights in place: when they do, and that bits stay the same."""

import pytest
import torch
from invariance_support import (
    FORMS,
    MARKS,
    SIZES,
    Layer,
    Steps,
    assert_equal,
    dtypes,
    in_a_process,
    rows_of,
)
from state_support import same_bits

from stateful_lstm.backend import operators

pytestmark = MARKS
HERE = "test_invariance_in_place"


def assert_near(found, packed, dtype):
    close = (
        {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    )
    for name in packed:
        torch.testing.assert_close(found[name], packed[name], **close)


def check_rows_in_place(dtype, H, form):
    layer = Layer(H, dtype, T=16, **form)
    whole = layer.run(range(4), save=2)
    assert_near(whole, rows_of(layer.run(range(12), save=2), list(range(4))), dtype)
    for B in (1, 2, 3, 4):
        rows = list(range(4 - B, 4))[::-1]
        for cut in ((), (1,), (5, 10), tuple(range(1, 16))):
            assert_equal(layer.run(rows, cut, save=2), rows_of(whole, rows))


def check_steps_in_place(dtype, H):
    layer = Layer(H, dtype, T=64)
    y = layer.run([0])["y"]
    for T in range(1, 65):
        layer.T = T
        assert same_bits(layer.run([0])["y"], y[:T])


def check_controls_in_place(dtype):
    layer = Layer(33, dtype, T=16)
    lengths, free = torch.tensor([16, 3, 0, 7]), layer.run(range(4), save=2)
    reset = layer.reset.clone()
    reset[:, 0] = False
    found = layer.run(range(4), save=2, lengths=lengths, reset=reset)
    assert_equal(rows_of(found, [0]), rows_of(free, [0]))
    controls = {"reset": reset, "mask": layer.mask, "lengths": torch.cat([lengths] * 3)}
    packed = layer.run(range(12), save=2, **controls)
    assert_near(layer.run(range(4), save=2, **controls), rows_of(packed, list(range(4))), dtype)
    layer.x[:, 1:] = float("nan")
    assert_equal(rows_of(layer.run(range(4), save=2), [0]), rows_of(free, [0]))


def way_of(layer, rows):
    """How rows of a layer are computed: packed or in place, told from the bits of the first one."""
    packed = layer.run(range(12))["c_n"][:1]
    return "packed" if same_bits(layer.run(range(rows))["c_n"][:1], packed) else "in_place"


def check_in_place(dtype):
    """Small layers, whose rows are read in place only where nothing may be packed."""
    for H in SIZES:
        for form in (FORMS["plain"], FORMS["no_bias"], FORMS["reverse"]):
            check_rows_in_place(dtype, H, form)
    for H in (7, 33):
        check_steps_in_place(dtype, H)
    check_controls_in_place(dtype)
    print(way_of(Layer(33, dtype, T=16), rows=4))


@pytest.mark.sampled(most=1)
@dtypes
def test_rows_in_place_are_the_same_in_every_batch_and_cut(dtype):
    told = in_a_process(HERE, f"t.check_in_place(t.{dtype})", STATEFUL_LSTM_PACK="never")
    can = dtype != torch.bfloat16 or operators.cpu_capability() in ("avx512bf16", "pairs")
    assert told == ["in_place" if can else "packed"]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("H", "most"), [(32, 0), (64, 2), (100, 6), (128, 11), (192, 24), (256, 40), (700, 60)]
)
def test_the_smaller_a_layer_the_fewer_steps_are_read_in_place(H, most, rows):
    if most >= rows:
        layer = Layer(H, torch.float32, T=most // rows)
        assert way_of(layer, rows) == "in_place"
    layer = Layer(H, torch.float32, T=most // rows + 1)
    assert way_of(layer, rows) == "packed"


def test_another_word_about_packing_is_refused():
    call = """with t.pytest.raises(RuntimeError, match="must be always or never, got often"):
        t.Layer(7, t.torch.float32).run([0])"""
    in_a_process(HERE, call, STATEFUL_LSTM_PACK="often")


def test_weights_too_large_for_the_cache_are_read_in_place_for_any_number_of_steps(threads):
    layer = Layer(736, torch.float32, T=66)
    threads(1)
    whole = layer.run(range(4))
    for count in (1, 2, 3):
        threads(count)
        for B, cut in ((1, ()), (1, (20,)), (3, (7, 33)), (4, ())):
            assert_equal(layer.run(range(B), cut), rows_of(whole, list(range(B))))


def test_the_ways_of_computing_differ_in_the_last_bits():
    # Else the tests above could not fail where one way is taken for another.
    layer = Layer(200, torch.float32, T=6)
    packed, in_place = layer.run(range(12))["y"][:, :4], layer.run(range(4))["y"]
    assert not same_bits(packed, in_place)
    torch.testing.assert_close(packed, in_place, rtol=1e-4, atol=1e-5)
    steps = Steps(33, torch.float32, rows=5)
    with torch.no_grad():
        whole, _ = steps.lstm(steps.x, (steps.h0, steps.c0))
    assert not same_bits(whole, steps.y)
    torch.testing.assert_close(whole, steps.y, rtol=1e-4, atol=1e-5)
