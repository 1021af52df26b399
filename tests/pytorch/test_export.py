"""torch.export, AOTInductor and torch.jit.trace: programs with the state as inputs and outputs."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
import torch
from state_support import assert_unmoved, close, make, noise, snapshot
from torch import nn
from torch.export import Dim, export

INPUT, H = 3, 5

LAYERS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 4, "num_layers": 2},
    "no bias": {"bias": False},
    "float16": {"dtype": torch.float16},  # which has no kernels of its own on the CPU
}


def arguments(lstm, steps, batch, seed=1):
    """Input and hx of one call."""
    states = lstm.num_layers * (2 if lstm.bidirectional else 1)
    shape = (batch, steps) if lstm.batch_first else (steps, batch)
    dtype = lstm.weight_ih_l0.dtype
    return (
        noise(*shape, INPUT, seed=seed, dtype=dtype),
        (
            noise(states, batch, lstm.proj_size or H, seed=seed + 1, dtype=dtype),
            noise(states, batch, H, seed=seed + 2, dtype=dtype),
        ),
    )


def any_size(lstm):
    """The dynamic sizes of those."""
    steps, batch = Dim("steps"), Dim("batch")
    x = {0: batch, 1: steps} if lstm.batch_first else {0: steps, 1: batch}
    return x, ({1: batch}, {1: batch})


@pytest.mark.sampled
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch about itself
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_one_program_for_every_batch_and_time(name, train):
    lstm = make(stateful=False, **LAYERS[name])
    with torch.set_grad_enabled(train):
        program = export(lstm, arguments(lstm, 4, 2), dynamic_shapes=any_size(lstm), strict=train)
        decomposed = program.run_decompositions()
        for steps, batch in ((4, 2), (1, 1), (9, 3), (30_000, 2)):
            call = arguments(lstm, steps, batch)
            close(program.module()(*call), lstm(*call))
            close(decomposed.module()(*call), lstm(*call))


def test_windows_go_on_by_the_states_that_come_out():
    layer = make(num_layers=2)
    stateless = make(num_layers=2, stateful=False)
    x, hx = arguments(stateless, 4, 2)
    with torch.no_grad():
        program = export(stateless, (x, hx), dynamic_shapes=any_size(stateless)).module()
        hx = tuple(torch.zeros_like(t) for t in hx)
        for k, steps in enumerate((4, 1, 7)):
            x = noise(steps, 2, INPUT, seed=k)
            y, hx = program(x, hx)
            close(y, layer(x)[0])
    close(hx, layer.state.read())


def test_resets_and_lengths_are_inputs_of_a_program():
    lstm = make(stateful=False)
    steps, batch = Dim("steps"), Dim("batch")

    def call(T, B):
        generator = torch.Generator().manual_seed(T)
        resets = torch.rand(T, B, generator=generator) < 0.3
        return noise(T, B, INPUT), {
            "reset_mask": resets,
            "lengths": torch.randint(T + 1, (B,), generator=generator),
        }

    x, control = call(4, 2)
    sizes = {0: steps, 1: batch}
    program = export(
        lstm,
        (x,),
        control,
        dynamic_shapes={"input": sizes, "reset_mask": sizes, "lengths": {0: batch}},
    ).module()
    for T, B in ((4, 2), (9, 3), (1, 1)):
        x, control = call(T, B)
        close(program(x, **control), lstm(x, **control))


@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
def test_an_exported_program_can_be_trained(recompute):
    lstm = make(stateful=False, num_layers=2, proj_size=4, recompute=recompute)
    x, hx = arguments(lstm, 4, 2)
    program = export(lstm, (x, hx), dynamic_shapes=any_size(lstm)).module()
    x, hx = arguments(lstm, 6, 3, seed=7)
    grads = []
    for module in (lstm, program):
        leaves = [t.clone().requires_grad_() for t in (x, *hx)]
        y, (h, c) = module(leaves[0], tuple(leaves[1:]))
        loss = y.square().sum() + h.sum() + c.sin().sum()
        names, weights = zip(*sorted(module.named_parameters()), strict=True)
        grads.append((names, torch.autograd.grad(loss, [*leaves, *weights])))
    assert grads[0][0] == grads[1][0]
    close(grads[1][1], grads[0][1])


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11 about its own
def test_a_model_with_the_layer_inside_is_saved_and_loaded():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = make(stateful=False, dtype=torch.float32), nn.Linear(H, 2)

        def forward(self, x, hx):
            y, hx = self.lstm(x, hx)
            return self.head(y), hx

    model = Model().eval()
    example = arguments(model.lstm, 4, 2)
    file = io.BytesIO()
    torch.export.save(export(model, example, dynamic_shapes=any_size(model.lstm)), file)
    file.seek(0)
    example = arguments(model.lstm, 7, 3)
    close(torch.export.load(file).module()(*example), model(*example))


# A process that has the package, and of this library the operators alone.
SERVER = """
import sys
import torch
import stateful_lstm
library, program = sys.argv[1:3]
x, hx, expected = torch.load(sys.argv[3])
for run in (torch._inductor.aoti_load_package(library), torch.export.load(program).module()):
    y, states = run(x, hx)
    torch.testing.assert_close((y, tuple(states)), expected)
"""


# Of torch's own making: what it says when a C++ wrapper is compiled, and how it copies its trees.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_aotinductor_packages_steps_with_explicit_states(tmp_path):
    """Any number of rows and of steps; in this process and in another one."""
    lstm = make(num_layers=2, stateful=False, dtype=torch.float32)
    with torch.no_grad():
        program = export(lstm, arguments(lstm, 4, 2), dynamic_shapes=any_size(lstm))
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "steps.pt2"),
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        run = torch._inductor.aoti_load_package(package)
        for rows in (2, 1, 5):
            _, hx = arguments(lstm, 1, rows)
            for steps in (1, 1, 7):  # each goes on from the last one
                x = noise(steps, rows, INPUT, seed=9, dtype=torch.float32)
                expected, y = lstm(x, hx), run(x, hx)
                close(y, expected)
                hx = y[1]

    x, hx = arguments(lstm, 3, 4)
    with torch.no_grad():
        torch.save((x, hx, lstm(x, hx)), tmp_path / "call.pt")
    torch.export.save(program, tmp_path / "program.pt2")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    files = [package, *(str(tmp_path / name) for name in ("program.pt2", "call.pt"))]
    subprocess.run([sys.executable, "-c", SERVER, *files], env=env, check=True)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("given", [False, True])
def test_a_resident_state_is_not_exported(given):
    lstm = make()
    lstm.allocate_state(2)
    lstm(noise(4, 2, INPUT))
    before = snapshot(lstm.state)
    example = arguments(lstm, 4, 2) if given else (noise(4, 2, INPUT),)
    for strict in (False, True):
        with pytest.raises(Exception, match="cannot carry a resident state: use stateful=False"):
            export(lstm, example, strict=strict)
    with pytest.raises(RuntimeError, match=r"torch.jit.trace cannot carry a resident state"):
        torch.jit.trace(lstm, example)
    assert_unmoved(before, lstm.state)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # each size that is looked at
@pytest.mark.parametrize("train", [False, True])
def test_jit_trace_of_a_stateless_layer(train):
    lstm = make(stateful=False, num_layers=2)
    with torch.set_grad_enabled(train):
        traced = torch.jit.trace(lstm, arguments(lstm, 4, 2))
        example = arguments(lstm, 4, 2, seed=5)
        y, expected = traced(*example), lstm(*example)
    close(y, expected)
    if train:
        found, grads = (
            torch.autograd.grad(out[0].square().sum(), module.parameters())
            for module, out in ((traced, y), (lstm, expected))
        )
        close(found, grads)
