"""From the layer down to the CUDA kernels and back, without a GPU.

The emulator stands in for the device, and CPU tensors for CUDA tensors (tests/emulator/binding.py);
all else is what runs on a GPU: the module, autograd, the operators' checks, the plan, the kernels.
"""

import copy
import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from emulator import binding, build
from emulator.binding import stand_in
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM
from stateful_lstm.__main__ import main
from stateful_lstm.backend import cuda

CHIPS = {
    "75": cuda.DeviceLimits(75, 8, 65536, 1),
    "80": cuda.DeviceLimits(80, 9, 166912, 1),
    "90": binding.H100,
}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread_alone(one_thread):
    """The emulator has one thread."""


@pytest.fixture
def emulated(monkeypatch):
    return stand_in(monkeypatch)


def noise(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


CONFIGS = {
    "one": {},
    "two_layers": {"num_layers": 2},
    "both_directions": {"bidirectional": True},
    "no_bias": {"bias": False},
    "proj": {"proj_size": 3, "num_layers": 2},
    "all": {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True},
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
B, SLOTS = 3, 5


def controls(T, what):
    """Masks, lengths and slots of a call; time first."""
    everything = {
        "reset_mask": torch.rand(T, B) < 0.3,
        "lengths": torch.tensor([T, 0, (T + 1) // 2]),
        "state_indices": torch.tensor([4, 0, -1], dtype=torch.int32),
    }
    return {} if what == "plain" else everything if what == "all" else {what: everything[what]}


def layer(dtype, T, what="plain", I=4, H=6, **config):  # noqa: E741
    """A layer with something in its state, an input, and the call's options."""
    lstm = StatefulLSTM(I, H, dtype=dtype, **config)
    state = lstm.allocate_state(SLOTS if what in ("state_indices", "all") else B)
    state.write((noise(*state.h.shape, dtype=dtype) / 2, noise(*state.c.shape).to(state.c.dtype)))
    options = controls(T, what)
    x = noise(T, B, I, dtype=dtype)
    if config.get("batch_first"):
        x = x.transpose(0, 1)
        if "reset_mask" in options:
            options["reset_mask"] = options["reset_mask"].t()
    return lstm, x, options


def in_double(lstm):
    """The same layer in float64, and its state."""
    twin = copy.deepcopy(lstm).double()
    twin.allocate_state(lstm.state.slots).write(tuple(t.double() for t in lstm.state.read()))
    return twin


def assert_equal_to_double(emulated, lstm, x, options, grads, at_most):
    """y, h_n, c_n, the state and gradients are those of the CPU's kernels in float64."""
    twin = in_double(lstm)
    twin.recompute = "none"
    found = results(lstm, x, options, grads)
    with emulated.left_out():
        expected = results(twin, x.double(), options, grads)
    for name, truth in expected.items():
        error = (found[name].double() - truth).norm() / max(1.0, float(truth.norm()))
        assert error <= at_most, (name, float(error))


def results(lstm, x, options, grads):
    x = x.detach().requires_grad_(grads)
    with torch.set_grad_enabled(grads):
        y, (h_n, c_n) = lstm(x, **options)
    found = {"y": y, "h_n": h_n, "c_n": c_n, "h": lstm.state.h, "c": lstm.state.c}
    if grads:
        torch.manual_seed(3)
        sum((t * noise(*t.shape).to(t.dtype)).sum() for t in (y, h_n, c_n)).backward()
        found |= {name: p.grad for name, p in lstm.named_parameters()} | {"x": x.grad}
    return {name: t.detach() for name, t in found.items()}


# Roundings of the type times what a dozen steps make of them.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 3e-6,
    torch.float16: 1e-2,
    torch.bfloat16: 6e-2,
}


@pytest.mark.sampled
@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("what", ["plain", "reset_mask", "lengths", "state_indices", "all"])
@pytest.mark.parametrize("grads", [False, True])
def test_the_layer_computes_what_it_does_in_double(emulated, config, dtype, what, grads):
    lstm, x, options = layer(dtype, 5, what, **config)
    assert_equal_to_double(emulated, lstm, x, options, grads, TOLERANCE[dtype])
    assert "lstm_forward" in emulated.calls
    assert ("lstm_backward" in emulated.calls) == grads


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("H", [20, 140])
def test_every_kernel_is_reached_through_the_layer(monkeypatch, chip, dtype, H):
    emulated = stand_in(monkeypatch, CHIPS[chip])
    lstm, x, options = layer(dtype, 2, "reset_mask", H=H)
    assert_equal_to_double(emulated, lstm, x, options, True, TOLERANCE[dtype])


def test_these_calls_reach_all_kernels():
    found = {
        binding.emulated_operators()
        .cuda_plan(2, B, H, H, 7 if dtype == torch.float64 else 15, False, False, *CHIPS[chip])
        .split(": ")[1]
        .split(",")[0]
        for chip in CHIPS
        for H in (20, 140)
        for dtype in (torch.float64, torch.bfloat16)
    }
    assert found == {"persistent_block", "persistent_cluster", "persistent_grid", "per_step"}


@configs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("what", ["plain", "reset_mask", "state_indices"])
def test_a_step_changes_the_state_in_place(emulated, config, dtype, what):
    lstm, x, options = layer(dtype, 1, what, **config)
    places = lstm.state.h.data_ptr(), lstm.state.c.data_ptr()
    version = lstm.state.h._version
    assert_equal_to_double(emulated, lstm, x, options, False, TOLERANCE[dtype])
    assert emulated.calls == ["lstm_step_"]
    assert places == (lstm.state.h.data_ptr(), lstm.state.c.data_ptr())
    assert lstm.state.h._version > version


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_step_of_many_layers_in_many_blocks(emulated, bidirectional):
    # No block may overwrite a layer's input before all others have read it.
    lstm, x, _ = layer(torch.float32, 1, H=140, num_layers=4, bidirectional=bidirectional)
    assert_equal_to_double(emulated, lstm, x, {}, False, TOLERANCE[torch.float32])
    assert emulated.calls == ["lstm_step_"]


@pytest.mark.parametrize("which", ["h", "c"])
def test_a_step_whose_input_is_the_state(emulated, which):
    # In both directions: the second one reads x after the first has changed the state.
    lstm, _, _ = layer(torch.float32, 1, I=140, H=140, bidirectional=True)
    twin, x = in_double(lstm), getattr(lstm.state, which)[:1]
    before = x.double()
    with torch.no_grad():
        y, _ = lstm(x)
        with emulated.left_out():
            expected, _ = twin(before)
    assert emulated.calls == ["lstm_step_"]
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=TOLERANCE[torch.float32])


@pytest.mark.parametrize("recompute", ["gates", "segments"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_recompute_gives_the_same_gradients(emulated, recompute, dtype):
    for config in ({}, {"proj_size": 3}, {"bidirectional": True}):
        lstm, x, options = layer(dtype, 6, "all", recompute=recompute, **config)
        assert_equal_to_double(emulated, lstm, x, options, True, TOLERANCE[dtype])


def test_recurrent_dropout_has_one_mask_for_forward_and_backward(emulated):
    lstm, x, _ = layer(torch.float64, 4, recurrent_dropout=0.5)

    def run(x):
        torch.manual_seed(1)
        with lstm.preserve_state():
            return lstm(x)[0]

    assert torch.autograd.gradcheck(run, x.requires_grad_())


def test_gradients_by_differences_and_again(emulated):
    weights = [p.detach().requires_grad_() for p in nn.LSTM(2, 3, dtype=torch.float64).parameters()]
    x, h, c = noise(3, 2, 2), noise(1, 2, 3), noise(1, 2, 3)

    def run(x, h, c, *weights):
        y, (h_n, c_n) = stateful_lstm.lstm(x, (h, c), list(weights), backend="cuda")
        return y, h_n, c_n

    inputs = [*(t.requires_grad_() for t in (x, h, c)), *weights]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_no_steps_and_no_rows(emulated):
    lstm, _, _ = layer(torch.float32, 1)
    before = lstm.state.read()
    y, (h_n, c_n) = lstm(torch.zeros(0, B, 4))
    assert y.shape == (0, B, 6)
    for found, truth in zip((h_n, c_n, *lstm.state.read()), before * 2, strict=True):
        assert torch.equal(found, truth)
    x = torch.zeros(0, B, 4, requires_grad=True)
    weights = list(lstm.parameters())
    y, (h_n, _) = stateful_lstm.lstm(x, None, weights, backend="cuda")
    (y.sum() + h_n.sum()).backward()
    # Of no steps; h and c each have their own gradient, or none.
    for of_h, of_c in ((2, 3), (2, 0), (0, 3)):
        hx = [torch.zeros(1, B, 6, requires_grad=True) for _ in range(2)]
        y, (h_n, c_n) = stateful_lstm.lstm(x, tuple(hx), weights, backend="cuda")
        (y.sum() + (of_h * h_n.sum() if of_h else 0) + (of_c * c_n.sum() if of_c else 0)).backward()
        for t, each in zip(hx, (of_h, of_c), strict=True):
            assert torch.equal(t.grad, torch.full_like(t, each))
    empty = StatefulLSTM(4, 6, stateful=False)(torch.zeros(3, 0, 4))[0]
    assert empty.shape == (3, 0, 6)


# ---- invalid slots -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([0, SLOTS, 1], IndexError, "a slot that does not exist"),
        ([0, -2, 1], IndexError, "a slot that does not exist"),
        ([2, 3, 2], ValueError, "a slot twice"),
    ],
)
def test_an_invalid_slot_is_reported_by_the_next_call(
    emulated, monkeypatch, steps, indices, error, words
):
    # On CUDA Python does not check the values.
    monkeypatch.setattr(stateful_lstm.backend.arguments, "check_state_indices", lambda *args: True)
    lstm, x, options = layer(torch.float32, steps, "state_indices")
    others = [s for s in range(SLOTS) if s not in indices]
    before = lstm.state.read()
    with torch.no_grad():
        lstm(x, state_indices=torch.tensor(indices))
        with pytest.raises(error, match=words):
            lstm(x, **options)
        for old, new in zip(before, lstm.state.read(), strict=True):
            assert torch.equal(old[:, others], new[:, others])
        lstm(x, **options)  # reported once
        lstm(x, state_indices=torch.tensor(indices))
        with pytest.raises(error, match=words):
            lstm.state.read()


# ---- refused -------------------------------------------------------------------------------------


def test_the_operators_report_invalid_arguments():
    own = binding.emulated_operators()
    w_ih, w_hh = noise(24, 4), noise(24, 6)
    x, h, c = noise(2, B, 4), noise(B, 6), noise(B, 6)
    args = [x, w_ih, w_hh, None, None, None, h, c, None, None, None, False, 2]

    def refused(changes, words):
        changed = [changes.get(k, value) for k, value in enumerate(args)]
        with pytest.raises(RuntimeError, match=words):
            own.lstm_forward(*changed)

    own.lstm_forward(*args)
    refused({0: x[0]}, "x must be")
    refused({0: x.float()}, "x has the wrong dtype")
    refused({1: noise(24, 5)}, "weight_ih must have shape")
    refused({3: noise(24)}, "both biases or none")
    refused({6: noise(B, 5)}, "h0 must have shape")
    refused({8: torch.zeros(2, B)}, "reset_mask has the wrong dtype")
    refused({9: torch.zeros(B + 1, dtype=torch.int64)}, "lengths must have shape")
    refused({12: 3}, "save must be 0, 1 or 2")
    refused({2: noise(24, 6).to(torch.complex128)}, "must be float32, float64, float16")
    state = noise(1, B, 6), noise(1, B, 6)
    step = [x[:1], [w_ih, w_hh], *state, None, None, None, False, False]
    own.lstm_step_(*step)
    for at, value, words in (
        (0, x, "takes one step, got 2"),
        (1, [w_ih], "the number of weights"),
        (6, torch.ones(B, dtype=torch.int64), "takes no lengths"),
        (2, noise(1, B + 1, 6), "c must have shape"),
        (4, torch.zeros(B + 1, dtype=torch.int64), "state_indices must have shape"),
    ):
        with pytest.raises(RuntimeError, match=words):
            own.lstm_step_(*[value if k == at else arg for k, arg in enumerate(step)])
    with pytest.raises(RuntimeError, match="does not fit a state of"):
        own.lstm_step_(x[:1, :2], *step[1:])


@pytest.mark.parametrize("steps", [1, 3])
def test_tf32_only_where_it_is_allowed(emulated, monkeypatch, steps):
    lstm, x, _ = layer(torch.float32, steps)
    if steps == 1:  # tensor cores take more than 16 rows; fewer rows are computed exactly
        lstm, x = StatefulLSTM(4, 6), noise(1, 17, 4, dtype=torch.float32)
    lstm.eval().requires_grad_(False)
    results = []
    for allowed in (False, True, False):
        monkeypatch.setattr(cuda, "_matmul_allows_tf32", lambda allowed=allowed: allowed)
        with lstm.preserve_state():
            results.append(lstm(x)[0])
    assert torch.equal(results[0], results[2])
    assert 1e-6 < (results[0] - results[1]).abs().max() < 1e-2


def test_tf32_backward_too(emulated):
    # From the same gates and cells, so that forward's rounding plays no part.
    own = binding.emulated_operators()
    w_hh, c, grad = (noise(*n, dtype=torch.float32) for n in ((24, 6), (B, 6), (3, B, 6)))
    gates, cells = torch.rand(3, B, 24), torch.rand(3, B, 6)

    def gradient(tf32):
        args = (grad, None, None, gates, cells, w_hh, None, c, None, None, None, False)
        return own.lstm_backward(*args, tf32)[0]

    exact, rough = gradient(False), gradient(True)
    assert torch.equal(exact, gradient(False))
    assert 1e-6 < (exact - rough).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize(("dtype", "big"), [(torch.float16, 2048.0), (torch.bfloat16, 256.0)])
@pytest.mark.parametrize("steps", [1, 2])
def test_sums_of_16_bit_numbers_are_not_rounded_to_16_bits(emulated, dtype, big, steps):
    # big + 1 - big: the 16-bit type would round big + 1 to big.
    lstm = StatefulLSTM(2, 3, dtype=dtype)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor([big, 1.0]).expand(12, 2))
        lstm.weight_hh_l0.zero_()
        lstm.bias_ih_l0.fill_(-big)
        lstm.bias_hh_l0.zero_()
        lstm.allocate_state(B)
        y, _ = lstm(torch.ones(steps, B, 2, dtype=dtype))
    one = torch.ones(())
    c = one.sigmoid() * one.tanh()
    truth = (one.sigmoid() * c.tanh()).expand(B, 3)
    torch.testing.assert_close(y[0].float(), truth, rtol=2**-7, atol=0)


def test_no_kernel_leaves_the_memory_that_the_binding_gives_it():
    if "EMULATOR_ALL" not in os.environ:
        pytest.skip("it compiles for most of a minute: make test-emulator runs it")
    if reason := build.lacking("asan"):
        pytest.skip(reason)
    command = [sys.executable, str(build.HERE / "smoke_layers.py")]
    environment = build.environment("asan")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr[-4000:]


# ---- availability and the plan -------------------------------------------------------------------


def test_which_chips_a_build_serves(monkeypatch):
    monkeypatch.setattr(cuda, "built_for", lambda: ["80", "90a", "ptx90"])
    cuda.unsupported.cache_clear()
    try:
        served = [arch for arch in (75, 80, 86, 89, 90, 100, 120) if cuda.unsupported(arch) is None]
        assert served == [80, 86, 89, 90, 100, 120]
        assert "sm_75" in cuda.unsupported(75)
        assert "sm_80, sm_90a" in cuda.unsupported(75)
    finally:
        cuda.unsupported.cache_clear()


def test_the_command_names_the_kernel_of_a_call(emulated, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "missing", lambda: None)
    call = ["plan", "512", "16", "1024", "--dtype", "bfloat16"]
    assert main([*call, "--why"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(cuda.KNOWN)
    assert lines[0].startswith("T4, forward: ") and "per_step" in lines[0]
    (h100,) = (line for line in lines if line.startswith("H100, forward"))
    assert "128 blocks" in h100 and ": persistent_grid, TensorGrid<Bfloat16, 1, 8>" in h100
    assert "persistent_block, TensorBlock<Bfloat16, 64>: a block needs" in h100  # and why no other
    assert "344576 bytes of shared memory, the limit is 232448" in h100
    assert main(call) == 0
    short = capsys.readouterr().out.splitlines()
    assert len(short) == len(lines) and max(map(len, short)) < 150
    (h100,) = (line for line in short if line.startswith("H100, forward"))
    assert h100 == (
        "H100, forward: persistent_grid, on tensor cores, 128 blocks of 256 threads; not "
        "persistent_cluster: a block needs 344576 bytes of shared memory"
    )
    assert main(["plan", "1", "1", "64", "--chip", "A100", "--proj-size", "32"]) == 0
    assert "it takes no projection" in capsys.readouterr().out
    assert main(["plan", "1", "0", "64"]) == 2
    assert "B must be 1 or more, got 0" in capsys.readouterr().err


def test_the_command_says_what_is_built(capsys):
    assert main([]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(json.dumps(stateful_lstm.info()))
    if cuda.missing():
        assert main(["plan", "1", "1", "64"]) == 1
        assert "built without CUDA kernels" in capsys.readouterr().err


def test_without_cuda_a_call_says_why():
    if cuda.missing() is None:
        pytest.skip("the library has CUDA kernels")
    weights = list(nn.LSTM(2, 3).parameters())
    with pytest.raises(RuntimeError, match="backend 'cuda' is unavailable: the input is on cpu"):
        stateful_lstm.lstm(torch.zeros(1, 1, 2), None, weights, backend="cuda")
    assert stateful_lstm.info()["backends"]["cuda"] == cuda.missing() == cuda.unavailable()
    assert stateful_lstm.info()["cuda_built"] == []
    with pytest.raises(RuntimeError, match="no plan is available"):
        cuda.plan(10, 1, 64, device=cuda.KNOWN["H100"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", ["one", "all"])
@pytest.mark.parametrize("grads", [False, True])
def test_calls_without_rows_steps_or_slots_start_no_kernel(emulated, dtype, config, grads):
    for T, rows, slots in itertools.product((0, 1, 5), (0, 3), (0, 4)):
        if 0 not in (T, rows) or rows > slots:
            continue
        lstm = StatefulLSTM(4, 6, dtype=dtype, **CONFIGS[config])
        lstm.allocate_state(slots)
        order = (rows, T) if lstm.batch_first else (T, rows)
        x = noise(*order, 4, dtype=dtype).requires_grad_(grads)
        with torch.set_grad_enabled(grads):
            y, (h_n, _) = lstm(
                x,
                reset_mask=torch.ones(order, dtype=torch.bool),
                state_indices=torch.arange(rows),
            )
        assert y.shape[:2] == order
        assert h_n.size(1) == rows
        if grads:
            y.float().sum().backward()
        lstm.reset_state(torch.zeros(slots, dtype=torch.bool))
        assert not lstm.state.h.any()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_call_makes_one_plan_and_no_text(emulated, bidirectional):
    own = binding.emulated_operators()
    lstm, x, _ = layer(torch.float32, 4, bidirectional=bidirectional, num_layers=2)
    runs = 4 if bidirectional else 2  # of the operator: layers times directions

    def counted(call):
        before = own.plan_counts()
        result = call()
        return result, [after - old for after, old in zip(own.plan_counts(), before, strict=True)]

    (y, _), made = counted(lambda: lstm(x))
    assert made == [runs, 0]
    _, made = counted(y.sum().backward)
    assert made == [runs, 0]
    with torch.no_grad():  # one step: all layers and directions in one operator
        _, made = counted(lambda: lstm(x[:1]))
    assert made == [1, 0]
    _, made = counted(lambda: own.cuda_plan(4, B, 6, 6, 6, False, False, *binding.H100))
    assert made == [0, 1]


def test_the_plan_takes_no_rows_and_no_steps():
    own = binding.emulated_operators()
    for T, rows, backward in itertools.product((0, 5), (0, 3), (False, True)):
        assert own.cuda_plan(T, rows, 6, 6, 6, False, backward, *binding.H100)
