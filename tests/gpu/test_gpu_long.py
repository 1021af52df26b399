"""A very long sequence, and a call whose gates no 32-bit index can count."""

import pytest
import torch
from comparisons import results
from gpu_support import (
    ON_CPU,
    Case,
    assert_right,
    backward,
    flat,
    inputs,
    ours,
    precision,
    problem,
    pure,
    truth,
    weights_of,
)

TAIL = 64  # steps that are compared at the end of the large call


@pytest.mark.parametrize("recompute", ["none", "segments"])
@pytest.mark.parametrize("mode", ["float32", "tf32", "bfloat16"])
def test_a_hundred_thousand_steps(mode, recompute):
    case = Case(2_000 if ON_CPU else 100_000, 1, 32, 8)
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode, stateful=False)

        def run(x, hx):
            return pure(lstm, x, hx, recompute=recompute)

        assert_right(results(run, x, hx, weights_of(lstm)), truth(case), case, mode)
        with torch.no_grad():
            assert_right(flat(run(x, hx)), truth(case), case, mode)


def exact_steps(lstm, x, hx):
    """The results of nn.LSTM for these steps in float64, and the gradient of x."""
    x = x.detach().cpu().double().requires_grad_()
    with torch.enable_grad():
        found = flat(lstm(x, tuple(s.cpu().double() for s in hx)))
    return found | backward(found, {"input": x})


def large_case():
    """T * B * 4H is above 2**31; a CPU gets a small one, which tests the test."""
    if ON_CPU:
        return Case(150, 4, 16, 8)
    B, H, needed = 256, 512, 64 << 30
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free GPU memory, {free >> 30} are free")
    return Case(2**31 // (B * 4 * H) + 16, B, H, 8)


@pytest.mark.parametrize("mode", ["float32", "tf32", "bfloat16"])
def test_gates_beyond_the_reach_of_32_bits(mode):
    """The first steps are compared, and the last ones with their gradient."""
    case = large_case()
    part = case._replace(T=TAIL)
    exact = problem(case)[0]
    x, hx = inputs(case, mode)
    with precision(mode):
        lstm = ours(case, mode)
        state = lstm.allocate_state(case.B)
        with torch.no_grad():
            state.write(hx)
            lstm(x[:-TAIL])
            before_tail = state.read()  # c as it is kept, in float32 at least
            last = exact_steps(exact, x[-TAIL:], before_tail)
            state.write(hx)
            y, (h, c) = lstm(x)
            head, tail = flat((y[:TAIL], (h, c))), flat((y[-TAIL:], (h, c)))
            assert_right({"output": head["output"]}, exact_steps(exact, x[:TAIL], hx), part, mode)
            assert_right(tail, last, part, mode)
            del y, head, tail  # memory for the next call
        state.write(hx)
        x.requires_grad_()
        y, (h, c) = lstm(x)
        found = flat((y[-TAIL:], (h, c)))
        found |= backward(found, {"input": x, **weights_of(lstm)})
        found["gradient of input"] = found["gradient of input"][-TAIL:]
    assert all(t.isfinite().all() for t in found.values())
    assert_right({name: found[name] for name in last}, last, part, mode)
