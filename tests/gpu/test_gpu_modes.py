"""Autocast and deterministic algorithms on CUDA, beside nn.LSTM."""

import pytest
import torch
from gpu_support import DEVICE, ON_CPU, cases, flat, inputs, ours, theirs
from state_support import noise, same_bits

halves = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)


@halves
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("given", [False, True], ids=["resident", "hx"])
@cases((1, 3, 24), (16, 17, 256, 19, 2), (9, 3, 40, 19, 1, True))
def test_autocast_gives_the_dtypes_and_numbers_of_nn_lstm(case, given, train, half):
    if ON_CPU and half == torch.float16:
        pytest.skip("oneDNN has no float16 here")
    x, hx = inputs(case, "float32")
    lstm, oracle = ours(case, "float32"), theirs(case, "float32")
    with torch.set_grad_enabled(train), torch.autocast(DEVICE.type, half):
        found = list(flat(lstm(x, hx if given else None)).values())
        try:
            expected = list(flat(oracle(x, hx if given else None)).values())
        except RuntimeError:
            pytest.skip("nn.LSTM cannot do this here")
    assert [t.dtype for t in found] == [t.dtype for t in expected] == [half] * 3
    exact = list(flat(oracle(x, hx if given else None)).values())
    for ours_, theirs_, truth in zip(found, expected, exact, strict=True):
        error, other = ((t.float() - truth).norm() for t in (ours_, theirs_))
        assert error <= 2 * other + 1e-3 * truth.norm()
    if train:
        found[0].float().square().sum().backward()
        for name, p in lstm.named_parameters():
            assert p.grad.dtype == torch.float32
            # A single step from zero has no gradient for weight_hh.
            assert p.grad.any() or (case.T == 1 and not given and "weight_hh" in name)


@cases((16, 17, 256, 19, 2), (1, 3, 24))
def test_deterministic_algorithms_are_all_there_are(case):
    x, _ = inputs(case, "float32")
    slots = torch.arange(case.B, device=DEVICE).flip(0)
    resets = noise(case.T, case.B).to(DEVICE) > 1
    lengths = torch.arange(case.B, device=DEVICE) % (case.T + 1)

    def run():
        lstm = ours(case, "float32")
        lstm.allocate_state(case.B + 1)
        out = []
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                y, hc = lstm(x, reset_mask=resets, lengths=lengths, state_indices=slots)
            out += [t.detach() for t in (y, *hc)]
            lstm.reset_state(torch.tensor([1], device=DEVICE))
        out += torch.autograd.grad(y.square().sum(), lstm.parameters())
        return out + list(lstm.state.read())

    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(), run()
    finally:
        torch.use_deterministic_algorithms(was)
    assert all(same_bits(a, b) for a, b in zip(first, second, strict=True))
