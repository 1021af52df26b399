"""The compiled operators: schemas, fake kernels, mutation, and their checks of arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from operator_support import BAD_FORWARD, DTYPES, SLOTS, B, H, P, acc, forward_args
from torch import Tensor

from stateful_lstm.backend import operators
from stateful_lstm.backend.autograd import compiled_layer
from stateful_lstm.backend.layer_stack import LayerWeights

SCHEMAS = {
    "lstm_forward": "(Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, "
    "Tensor? bias_hh, Tensor? weight_hr, Tensor h0, Tensor c0, Tensor? reset_mask, "
    "Tensor? lengths, Tensor? recurrent_mask, bool reverse, int save, bool in_place=False, "
    "bool tf32=False) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells)",
    "lstm_backward": "(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor gates, "
    "Tensor cells, Tensor weight_hh, Tensor? weight_hr, Tensor c0, Tensor? reset_mask, "
    "Tensor? lengths, Tensor? recurrent_mask, bool reverse, bool tf32=False) -> "
    "(Tensor grad_gates, Tensor grad_h0, Tensor grad_c0, Tensor grad_hidden)",
    "lstm_gradients": "(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor gates, "
    "Tensor cells, Tensor x, Tensor y, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, "
    "Tensor? weight_hr, Tensor? reset_mask, Tensor? lengths, Tensor? recurrent_mask, bool reverse, "
    "Tensor? sum_ih, Tensor? sum_hh, Tensor? sum_bias, int wanted) -> "
    "(Tensor grad_x, Tensor grad_ih, Tensor grad_hh, Tensor grad_bias, Tensor grad_h0, "
    "Tensor grad_c0, Tensor grad_hidden)",
    "lstm_gates": "(Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, "
    "Tensor? bias_hh, Tensor? weight_hr, Tensor h0, Tensor c0, Tensor? reset_mask, "
    "Tensor? lengths, Tensor? recurrent_mask, bool reverse, Tensor y, Tensor cells) -> "
    "Tensor gates",
    "lstm_step_": "(Tensor x, Tensor[] weights, Tensor(a!) h, Tensor(b!) c, "
    "Tensor? state_indices, Tensor? reset_mask, Tensor? lengths, bool bias, bool bidirectional, "
    "bool tf32=False) -> (Tensor y, Tensor h_n, Tensor c_n)",
    "state_gather": "(Tensor h, Tensor c, Tensor? state_indices) -> (Tensor h0, Tensor c0)",
    "state_scatter_": "(Tensor(a!) h, Tensor(b!) c, Tensor? state_indices, Tensor h_n, Tensor c_n) "
    "-> ()",
    "state_write_": "(Tensor(a!) h, Tensor(b!) c, Tensor? state_indices, Tensor h_n, Tensor c_n) "
    "-> ()",
    "state_copy": "(Tensor x) -> Tensor",
    "cpu_capability": "() -> str",
    "cpu_capabilities": "() -> str",
}


def backward_args(dtype: torch.dtype, projection: bool, steered: bool, reverse: bool) -> list:
    args = forward_args(dtype, projection, steered, reverse)
    y, h_n, c_n, gates, cells = operators.lstm_forward(*args)
    grads = [torch.randn_like(t) for t in (y, h_n, c_n)]
    if not steered:
        grads = [grads[0], None, None]
    inputs = (args[0], y, *args[6:8], *args[1:3], args[5])
    return [*grads, gates, cells, *inputs, *args[8:12], None, None, None, 31]


def state(dtype: torch.dtype, layers: int, p: int) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(layers, SLOTS, p, dtype=dtype),
        torch.randn(layers, SLOTS, H, dtype=acc(dtype)),
    )


def step_args(dtype: torch.dtype, projection: bool, bidirectional: bool) -> list:
    lstm = torch.nn.LSTM(
        4, H, 2, proj_size=P * projection, bidirectional=bidirectional, dtype=dtype
    )
    weights = [p.detach() for p in lstm.parameters()]
    h, c = state(dtype, 4 if bidirectional else 2, P if projection else H)
    steps = 1 if bidirectional else 3
    x = torch.randn(steps, B, 4, dtype=dtype)
    reset = torch.tensor([[True, False, False], [False, True, False], [False] * 3])[:steps]
    lengths = torch.tensor([steps, 1, 0])
    return [x, weights, h, c, torch.tensor([5, -1, 2]), reset, lengths, True, bidirectional]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_operator_is_registered_with_its_schema(name: str) -> None:
    # Errors of registration in C++ are swallowed: a malformed schema would leave no operator.
    schema = str(getattr(torch.ops.stateful_lstm, name).default._schema)
    assert schema == f"stateful_lstm::{name}{SCHEMAS[name]}"


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("steered", [False, True])
def test_opcheck_forward_and_backward(dtype: torch.dtype, projection: bool, steered: bool) -> None:
    op = torch.ops.stateful_lstm
    for reverse in (False, True):
        torch.library.opcheck(op.lstm_forward, forward_args(dtype, projection, steered, reverse))
        torch.library.opcheck(op.lstm_gradients, backward_args(dtype, projection, steered, reverse))


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.parametrize("save", [0, 1])
def test_opcheck_forward_that_saves_less(save: int) -> None:
    args = forward_args(torch.float32, False, True, False)
    torch.library.opcheck(torch.ops.stateful_lstm.lstm_forward, [*args[:-1], save])


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.sampled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_opcheck_step(dtype: torch.dtype, projection: bool, bidirectional: bool) -> None:
    args = step_args(dtype, projection, bidirectional)
    torch.library.opcheck(torch.ops.stateful_lstm.lstm_step_, args)


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_opcheck_gather_and_scatter(dtype: torch.dtype, index_dtype: torch.dtype) -> None:
    h, c = state(dtype, 2, P)
    slots = torch.tensor([5, -1, 2], dtype=index_dtype)
    torch.library.opcheck(torch.ops.stateful_lstm.state_gather, [h, c, slots])
    torch.library.opcheck(torch.ops.stateful_lstm.state_gather, [h, c, None])
    rows = [torch.randn(2, 3, P, dtype=dtype), torch.randn(2, 3, H, dtype=acc(dtype))]
    torch.library.opcheck(torch.ops.stateful_lstm.state_scatter_, [h, c, slots, *rows])


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
def test_opcheck_copy() -> None:
    for x in (torch.randn(2, 3, 5), torch.randn(5, 3, 2).half().permute(2, 1, 0)):
        torch.library.opcheck(torch.ops.stateful_lstm.state_copy, [x])


@pytest.mark.unsanitized("tests torch's tracing, which reaches no kernel of its own")
@pytest.mark.parametrize("projection", [False, True])
def test_opcheck_gradients_and_gates(projection: bool) -> None:
    args = forward_args(torch.float32, projection, True, False)
    x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, *control, _ = args
    y, h_n, c_n, gates, cells = operators.lstm_forward(*args)
    grads = [torch.randn_like(t) for t in (y, h_n, c_n)]
    given = [*grads, gates, cells, x, y, h0, c0, w_ih, w_hh, w_hr, *control]
    torch.library.opcheck(torch.ops.stateful_lstm.lstm_gradients, [*given, None, None, None, 31])
    given = [x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, *control, y, cells]
    torch.library.opcheck(torch.ops.stateful_lstm.lstm_gates, given)


def test_mutating_operators_bump_the_version_of_the_state() -> None:
    args = step_args(torch.float32, False, False)
    h, c = args[2:4]
    before = h._version, c._version
    operators.lstm_step_(*args)
    assert h._version > before[0] and c._version > before[1]
    before = h._version, c._version
    operators.state_scatter_(h, c, None, torch.randn_like(h), torch.randn_like(c))
    assert h._version > before[0] and c._version > before[1]


def test_gradients_are_bitwise_repeatable() -> None:
    args = backward_args(torch.float32, True, True, False)
    for first, second in zip(
        operators.lstm_gradients(*args), operators.lstm_gradients(*args), strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize(("position", "value", "message"), BAD_FORWARD)
def test_forward_refuses(position: int, value: object, message: str) -> None:
    args = forward_args(torch.float32, False, False, False)
    args[position] = value
    with pytest.raises(RuntimeError, match=message):
        operators.lstm_forward(*args)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (torch.tensor([0, 1, SLOTS]), r"state_indices\[2\] is 7, expected -1 to 6"),
        (torch.tensor([0, -2, 1]), r"state_indices\[1\] is -2"),
        (torch.tensor([3, 1, 3]), "names slot 3 twice"),
        (torch.tensor([0.0, 1.0, 2.0]), "state_indices has the wrong dtype"),
        (None, "a batch of 3 rows does not fit a state of 7 slots"),
    ],
)
def test_step_refuses_and_leaves_the_state(slots: Tensor | None, message: str) -> None:
    args = step_args(torch.float32, False, False)
    args[4] = slots
    before = [t.clone() for t in args[2:4]]
    with pytest.raises(RuntimeError, match=message):
        operators.lstm_step_(*args)
    assert all(torch.equal(old, new) for old, new in zip(before, args[2:4], strict=True))


def test_step_refuses_weights_that_do_not_fit() -> None:
    args = step_args(torch.float32, False, False)
    args[1] = args[1][:-1]
    with pytest.raises(RuntimeError, match="the number of weights"):
        operators.lstm_step_(*args)


def test_step_refuses_no_steps() -> None:
    args = step_args(torch.float32, False, True)
    args[0], args[5] = torch.randn(0, B, 4), None
    with pytest.raises(RuntimeError, match="x must have at least one step, got 0"):
        operators.lstm_step_(*args)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_a_state_is_copied_as_it_lies(dtype: torch.dtype) -> None:
    for x in (torch.randn(2, 3, 5).to(dtype), torch.randn(5, 3, 2).to(dtype).permute(2, 1, 0)):
        found = operators.state_copy(x)
        assert torch.equal(found, x) and found.stride() == x.stride()
        assert found.data_ptr() != x.data_ptr()


def test_an_error_names_a_file_of_the_project() -> None:
    """Not where it lay on the machine that built the library."""
    args = forward_args(torch.float32, False, False, False)
    args[6] = torch.randn(B, H + 1)
    with pytest.raises(
        RuntimeError, match=r"^\w+, csrc/bindings/tensor_view\.h:\d+, h0 must have shape"
    ):
        operators.lstm_forward(*args)


# A process for each name, made after torch is there and before the first call chooses.
INSTRUCTION_SETS = """
import os, sys
import torch
from stateful_lstm.backend import operators
from stateful_lstm.backend.autograd import compiled_layer
from stateful_lstm.backend.layer_stack import LayerWeights

def run():
    torch.manual_seed(3)
    print(operators.cpu_capability())
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        wide = torch.float32 if dtype == torch.bfloat16 else dtype
        w, h, c = (torch.randn(n, 19, dtype=dtype) for n in (76, 5, 5))
        x, w_ih = torch.randn(6, 5, 11, dtype=dtype), torch.randn(76, 11, dtype=dtype)
        args = x, w_ih, w, None, None, None, h, c.to(wide), None, None, None, False, 2
        y, h_n, c_n, gates, cells = operators.lstm_forward(*args)
        c0, control = c.to(wide), args[8:12]
        saved = y, None, None, gates, cells, x, y, h, c0, w_ih, w, None
        grads = operators.lstm_gradients(*saved, *control, None, None, None, 31)[:6]
        print(*(t.double().abs().sum().item() for t in (y, c_n, *grads)))

for name in sys.argv[1:]:
    if os.fork() == 0:
        os.environ["STATEFUL_LSTM_CPU"] = name
        run()
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


@pytest.mark.unsanitized("takes too long")
def test_every_instruction_set_can_be_forced_and_agrees() -> None:
    def run(*names: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", INSTRUCTION_SETS, *names]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def sums(lines: list[str]) -> list[list[float]]:
        return [[float(number) for number in line.split()] for line in lines]

    names = operators.cpu_capabilities()
    assert operators.cpu_capability() in names and {"portable", "pairs", "tiles"} <= set(names)
    lines = run(*names).stdout.splitlines()
    said = {lines[k]: sums(lines[k + 1 : k + 4]) for k in range(0, len(lines), 4)}
    assert [*said] == names and len(lines) == 4 * len(names)
    tolerances = (1e-5, 1e-13, 1e-2)  # tens of roundings of float32, float64, bfloat16
    for name in names:
        for a, b, rel in zip(said[name], said["portable"], tolerances, strict=True):
            assert a == pytest.approx(b, rel=rel), name
    refused = run("abacus")
    assert "STATEFUL_LSTM_CPU=abacus" in refused.stderr and not refused.stdout


@pytest.mark.parametrize("save", [0, 1, 2])
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_operator_alone_has_the_layer_s_gradients(
    save: int, projection: bool, reverse: bool
) -> None:
    args = forward_args(torch.float64, projection, True, reverse)
    leaves = [t.requires_grad_() for t in args[:8] if t is not None]
    found = torch.ops.stateful_lstm.lstm_forward(*args[:12], save)[:3]
    weights = LayerWeights(*args[1:6])
    y, h_n, c_n = compiled_layer(args[0], weights, *args[6:12], keep="all")
    expected = y, h_n[0], c_n[0]
    seeds = [torch.randn_like(t) for t in expected]
    grads = [torch.autograd.grad(outputs, leaves, seeds) for outputs in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1])
