"""torch.compile around the layer: one graph, compiled once, that updates the state in place."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from state_support import addresses, close, make, noise
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import get_static_address_type
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.utils import run_and_get_code
from torch.utils.checkpoint import checkpoint

from stateful_lstm import StatefulLSTM, preserve_state
from stateful_lstm.backend import cuda

# torch's own tracing instantiates an autograd Function, and warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

B, INPUT, H = 2, 3, 5


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch._dynamo.reset()


def pair(dtype=torch.float64, **options):
    """The same layer twice, and the second one's compiled form with its counter of graphs."""
    eager, other = make(dtype=dtype, **options), make(dtype=dtype, **options)
    return eager, other


def compiled(module, backend="aot_eager"):
    counter = CompileCounterWithBackend(backend)
    return torch.compile(module, fullgraph=True, backend=counter), counter


def gradients(module, y):
    return torch.autograd.grad(y.square().sum(), module.parameters())


@pytest.mark.sampled
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("what", ["autocast", "weight_norm", "dropout"])
def test_what_lies_around_and_inside_the_layer_compiles_with_it(what, stateful):
    dropping = {"num_layers": 2, "dropout": 0.4, "recurrent_dropout": 0.3}
    dtype = torch.float32 if what == "autocast" else torch.float64
    layers = pair(dtype, stateful=stateful, **(dropping if what == "dropout" else {}))
    results = []
    for layer, run in zip(layers, (layers[0], compiled(layers[1])[0]), strict=True):
        if what == "weight_norm":
            nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
        if stateful:
            layer.allocate_state(B)
        torch.manual_seed(0)  # aot_eager draws as eager does
        for k in range(2):
            x = noise(4, B, INPUT, seed=k, dtype=dtype)
            with torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
                y, (h, c) = run(x)
            assert y.dtype == (torch.bfloat16 if what == "autocast" else dtype)
            results.append((y.detach(), h.detach(), c.detach(), *gradients(layer, y)))
    for eager, other in zip(results[:2], results[2:], strict=True):
        close(other, eager)


@pytest.mark.sampled
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_windows_of_a_stateful_layer_share_one_graph(steps, train):
    eager, other = pair(num_layers=2)
    eager.allocate_state(B)
    where = other.allocate_state(B) and addresses(other)
    call, counter = compiled(other, "inductor")
    for k in range(5):
        x = noise(steps, B, INPUT, seed=k)
        with torch.set_grad_enabled(train):
            expected, (h, c) = eager(x)
            y, hc = call(x)
        close((y, *hc), (expected, h, c))
        if train:
            close(gradients(other, y), gradients(eager, expected))
        close(other.state.read(), eager.state.read())
        for layer in (eager, other):  # what people do between two windows
            if k == 1:
                layer.reset_state(torch.tensor([1]))
            elif k == 2:
                layer.reset_state()
    with preserve_state(other), torch.set_grad_enabled(train):
        call(noise(steps, B, INPUT))
    close(other.state.read(), eager.state.read())
    assert counter.frame_count == 1
    assert addresses(other) == where


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("train", [False, True])
def test_a_state_is_preserved_inside_compiled_code_also_after_a_reset(steps, train):
    lstm = make(dtype=torch.float32)
    lstm.allocate_state(B)
    lstm.reset_state()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def tried(x):
        with lstm.preserve_state():
            return lstm(x)[0]

    x = noise(steps, B, INPUT, dtype=torch.float32)
    with torch.set_grad_enabled(train):
        close(tried(x), lstm(x)[0])
        before = lstm.state.read()
        assert before[0].any()
        tried(x)
        close(lstm.state.read(), before)


def inductor_without_its_code(graph, inputs):
    """How inductor works on graphs, and chooses what backward recomputes, in fixed order."""

    def as_it_is(graph, *args, **options):
        return make_boxed_func(graph)

    return compile_fx(graph, inputs, inner_compile=as_it_is)


def checkpointed(function):
    return lambda x: checkpoint(function, x, use_reentrant=False)


@pytest.mark.sampled(most=1)
@pytest.mark.parametrize("how", ["budget", "aggressive", "checkpoint inside", "checkpoint around"])
def test_a_compiled_layer_that_is_run_again_in_backward_is_refused(how):
    """As an eager one is: its state has moved on since. Only the operators can know of it."""
    lstm, x = make(), noise(4, B, INPUT).requires_grad_()
    lstm.allocate_state(B)
    inside = checkpointed(lstm) if how == "checkpoint inside" else lstm
    call, _ = compiled(inside)
    call = checkpointed(call) if how == "checkpoint around" else call
    budget, aggressive = 0.5 if how == "budget" else 1.0, how == "aggressive"
    with torch._functorch.config.patch(
        activation_memory_budget=budget, aggressive_recomputation=aggressive
    ):
        try:
            y, (h, c) = call(x)
        except torch._dynamo.exc.Unsupported:  # torch 2.11 refuses this before any effect
            assert how == "checkpoint inside"
            assert torch.__version__.startswith("2.11.")
            assert not lstm.state.h.any()
            return
        with pytest.raises(RuntimeError, match=r"run again inside a backward pass.*recompute="):
            y.square().sum().backward()
    close(lstm.state.read(), (h.detach(), c.detach()))
    plain, other = pair(stateful=False)  # which is a function, and may be run again
    call, _ = compiled(other)
    with torch._functorch.config.patch(activation_memory_budget=0.5):
        close(gradients(other, call(x)[0]), gradients(plain, plain(x)[0]))


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("start", ["resident", "state.read()", "state.h and state.c", "slots"])
def test_backward_begins_where_a_compiled_call_began(start, dtype):
    """Backward may recompute what is cheap, from tensors that the call has written to meanwhile."""
    lstm, oracle = pair(dtype)
    for layer in (lstm, oracle):
        layer.allocate_state(B)
        with torch.no_grad():
            layer(noise(3, B, INPUT, seed=4, dtype=dtype))

    def run(layer, x):
        state, given = layer.state, {}
        if start == "slots":
            given["state_indices"] = torch.tensor([1, 0])
        elif start != "resident":
            given["hx"] = state.read() if "read" in start else (state.h, state.c)
        return layer(x, **given)[0]

    x = noise(4, B, INPUT, dtype=dtype)
    call, _ = compiled(lambda x: run(lstm, x), inductor_without_its_code)
    close(gradients(lstm, call(x)), gradients(oracle, run(oracle, x)))
    close(lstm.state.read(), oracle.state.read())


def calls(code):
    """The operators that generated code calls, ours without their namespace."""
    return re.findall(r"torch\.ops\.(?:stateful_lstm\.)?([\w.]+?)\.default\(", code)


@pytest.mark.parametrize("steps", [1, 4])
def test_compiled_inference_is_the_operator_on_the_state_and_nothing_else(steps):
    lstm = make(num_layers=2, dtype=torch.float32)
    lstm.allocate_state(B)

    def run():
        with torch.no_grad():
            torch.compile(lstm, fullgraph=True)(noise(steps, B, INPUT, dtype=torch.float32))

    _, (code,) = run_and_get_code(run)
    assert calls(code) == ["lstm_step_"]
    assert "empty_strided" not in code.split("def call")[1].split("runner =")[0]


def test_compiled_training_reads_the_state_once_and_writes_it_once():
    lstm = make(num_layers=2, dtype=torch.float32)
    lstm.allocate_state(B)

    def run():
        torch.compile(lstm, fullgraph=True)(noise(4, B, INPUT, dtype=torch.float32))[
            0
        ].sum().backward()

    _, (forward, backward) = run_and_get_code(run)
    operators = ["state_gather", "lstm_forward", "lstm_forward", "state_scatter_"]
    assert calls(forward) == operators
    # Of inductor's own kernels there is only what puts h_n and c_n of the layers together: no copy.
    assert set(re.findall(r"cpp_fused_([a-z_]+)_\d+", forward)) == {"cat_unsqueeze"}
    assert calls(backward) == ["lstm_gradients"] * 2


CALLS = {
    "batch_first": ({"batch_first": True}, {}),
    "no bias": ({"bias": False}, {}),
    "projection": ({"proj_size": 3, "num_layers": 2}, {}),
    "both directions": ({"bidirectional": True, "num_layers": 2}, {}),
    "resets": ({}, {"reset_mask": torch.tensor([[True, False], [False, True]] * 2)}),
    "lengths": ({}, {"lengths": torch.tensor([4, 2])}),
    "slots": ({}, {"state_indices": torch.tensor([3, 0])}),
    "hx": ({}, {"hx": (noise(1, B, H, seed=5), noise(1, B, H, seed=6))}),
    "stateless": ({"stateful": False}, {}),
    "gates": ({"recompute": "gates"}, {}),
    "segments": ({"recompute": "segments"}, {}),
}


@pytest.mark.sampled
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_is_the_eager_one(name, train):
    options, keywords = CALLS[name]
    eager, other = pair(**options)
    if eager.stateful:
        slots = 4 if "state_indices" in keywords else B
        eager.allocate_state(slots)
        other.allocate_state(slots)
    call, counter = compiled(other)
    for k in range(3):
        x = noise(4, B, INPUT, seed=k)
        x = x.transpose(0, 1).contiguous() if options.get("batch_first") else x
        with torch.set_grad_enabled(train):
            expected, y = eager(x, **keywords), call(x, **keywords)
        close(y, expected)
        if train:
            close(gradients(other, y[0]), gradients(eager, expected[0]))
        if eager.stateful:
            close(other.state.read(), eager.state.read())
    assert counter.frame_count == 1


def test_the_first_call_makes_the_state_and_the_second_compiles_for_it():
    eager, other = pair()
    call, counter = compiled(other)
    for k in range(4):
        x = noise(4, B, INPUT, seed=k)
        close(call(x)[0], eager(x)[0])
    assert counter.frame_count == 2


@pytest.mark.sampled(most=2)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_third_length_is_no_reason_to_compile_again(train, dtype):
    eager, other = pair(dtype, num_layers=2)
    eager.allocate_state(B)
    other.allocate_state(B)
    call, counter = compiled(other)
    for steps in (4, 6, 9, 5, 30):
        x = noise(steps, B, INPUT, seed=steps, dtype=dtype)
        with torch.set_grad_enabled(train):
            expected, y = eager(x)[0], call(x)[0]
        close(y, expected)
        if train:
            close(gradients(other, y), gradients(eager, expected))
    assert counter.frame_count == 2


def test_long_sequences_compile_once_for_each_number_of_ranges():
    # A range holds 10,922 rows of so many gates: each of these lengths makes two ranges.
    eager, other = pair(stateful=False, hidden_size=24)
    call, counter = compiled(other)
    torch._dynamo.mark_dynamic(first := noise(11_000, 1, INPUT), 0)
    for x in (first, noise(12_345, 1, INPUT), noise(20_001, 1, INPUT)):
        expected, y = eager(x)[0], call(x)[0]
        close(y, expected)
        close(gradients(other, y), gradients(eager, expected))
    assert counter.frame_count == 1


def test_a_compiled_call_bumps_the_versions_of_the_state():
    lstm = make()
    lstm.allocate_state(B)
    call, _ = compiled(lstm)
    factor = noise(1, B, H).requires_grad_()
    loss = (factor * lstm.state.h).sum()
    with torch.no_grad():
        call(noise(4, B, INPUT))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_model_around_the_layer_compiles_whole():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm = (
                nn.Embedding(7, INPUT),
                StatefulLSTM(INPUT, H, 2, batch_first=True),
            )
            self.head = nn.Linear(H, 7)

        def forward(self, tokens, starts):
            return self.head(self.lstm(self.embed(tokens), reset_mask=starts)[0])

    torch.manual_seed(0)
    eager = Model()
    other = Model()
    other.load_state_dict(eager.state_dict())
    call, counter = compiled(other)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.05) for model in (eager, other)]
    for model in (eager, other):
        model.lstm.allocate_state(B)
    for k in range(3):
        tokens = torch.randint(7, (B, 6), generator=torch.Generator().manual_seed(k))
        losses = []
        for run, optimizer in zip((eager, call), optimizers, strict=True):
            loss = nn.functional.cross_entropy(
                run(tokens, tokens == 3).flatten(0, 1), tokens.flatten()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        close(losses[1], losses[0])
    assert counter.frame_count == 1


# Of frames that torch compiles one by one, where the whole one is refused.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_batch_of_another_size_is_refused_by_a_whole_graph_and_taken_by_a_broken_one():
    lstm = make()
    call, _ = compiled(lstm)
    for _ in range(2):
        call(noise(4, B, INPUT))
    lstm.reset_state()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"call allocate_state\(5\) before"):
        call(noise(4, 5, INPUT))
    lstm.allocate_state(5)
    call(noise(4, 5, INPUT))
    eager, other = pair()
    call = torch.compile(other, backend="aot_eager")
    for rows in (B, 7, 3):
        for layer in (eager, other):
            layer.reset_state()
        for k in range(2):
            x = noise(4, rows, INPUT, seed=k)
            close(call(x)[0], eager(x)[0])
    with pytest.raises(ValueError, match="the batch has 4 rows, the state has 3 slots"):
        call(noise(4, 4, INPUT))


def test_a_state_that_is_there_is_written_inside_inference_mode_and_outside():
    lstm, x = make(), noise(4, B, INPUT)
    lstm.allocate_state(B)
    call, _ = compiled(lstm)
    with torch.inference_mode():
        call(x)
    lstm(x)[0].sum().backward()
    assert not lstm.state.h.is_inference()


def test_packed_sequences_run_with_graph_breaks():
    eager, other = pair(stateful=False)
    x = nn.utils.rnn.pack_padded_sequence(noise(4, B, INPUT), torch.tensor([4, 2]))
    close(torch.compile(other, backend="aot_eager")(x)[0].data, eager(x)[0].data)


# ---- for CUDA, without it ------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_the_state_counts_as_static_so_that_cuda_graphs_may_write_it(train, own):
    """What inductor is told of its inputs: all but x stay where they are."""
    lstm = make(dtype=torch.float32)
    lstm.allocate_state(B)
    states = [None] if own else [lstm.new_state(B), lstm.new_state(B)]
    static = []

    def spy(graph, inputs, **given):
        static.append((len(inputs), list(given["static_input_idxs"])))
        return compile_fx_inner(graph, inputs, **given)

    def backend(graph, inputs):
        return compile_fx(graph, inputs, inner_compile=spy)

    call = torch.compile(lstm, fullgraph=True, backend=backend)
    with (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
        torch.set_grad_enabled(train),
    ):
        for k in range(4):
            call(noise(4, B, INPUT, seed=k, dtype=torch.float32), state=states[k % len(states)])
    weights = len(list(lstm.parameters()))
    assert static == [(weights + 3, list(range(1, weights + 3)))]
    for state in (lstm.state, copy.deepcopy(lstm).state, lstm.double().state):
        assert {get_static_address_type(t) for t in (state.h, state.c)} == {"unguarded"}


def test_what_is_asked_of_the_library_and_of_torch_does_not_break_the_graph(monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: str(torch.ops.stateful_lstm.cpu_capability()))
    x = torch.zeros(2)

    def call(x):
        assert cuda._why_not(0, x.dtype)
        return x + cuda._matmul_allows_tf32()

    compiled = torch.compile(call, fullgraph=True, backend="eager")
    was = torch.backends.cuda.matmul.allow_tf32
    try:
        for allowed in (False, True, False):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            assert compiled(x).tolist() == [allowed] * 2
    finally:
        torch.backends.cuda.matmul.allow_tf32 = was


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["gates", "segments", "auto"])
def test_a_layer_that_recomputes_compiles_whole_for_any_length(recompute):
    lstm, twin = make(recompute=recompute), make()
    lstm.allocate_state(B)
    call = torch.compile(lstm, backend="aot_eager", fullgraph=True)
    for T in (5, 30, 31, 64):
        x = noise(T, B, INPUT, seed=T)
        close(call(x)[0], twin(x)[0])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_a_compiled_call_after_a_reset_is_a_use_of_the_state(backend, slots, grad):
    lstm = make()
    lstm.allocate_state(16)
    call = torch.compile(lstm, backend=backend)
    rows = 3 if slots else 16
    options = {"state_indices": torch.tensor([7, 9, 1])} if slots else {}
    for _ in range(2):
        lstm.reset_state()
        with torch.set_grad_enabled(grad):
            call(noise(5, rows, INPUT), **options)
        before = lstm.state.read()
        with pytest.raises(ValueError, match="2 rows, the state has 16 slots"):
            lstm(noise(5, 2, INPUT))
        assert all(map(torch.equal, lstm.state.read(), before))
