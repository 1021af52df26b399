"""The fast path of sequences inside autograd's graphs: layouts, hooks, checkpoints, threads."""

import gc
import threading
import weakref

import pytest
import torch
from fastpath_layer_support import LayerSpy, assert_same, needs_fastpath, trained
from fastpath_support import Seen
from state_support import make, noise, same_bits

pytestmark = needs_fastpath
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture
def spy(monkeypatch):
    return LayerSpy(monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_batch_first_takes_the_fastpath(spy, layers, dtype):
    lstm = make(stateful=False, batch_first=True, num_layers=layers, dtype=dtype)
    x = noise(4, 6, 3, dtype=dtype)
    reset = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    found = trained(lstm, x, reset_mask=reset)
    assert spy.taken() == (layers, layers)
    assert_same(found, spy.regular_path(lambda: trained(lstm, x, reset_mask=reset)))
    with torch.no_grad():
        y, expected = lstm(x)[0], spy.regular_path(lambda: lstm(x)[0])
    assert spy.taken() == (layers, 0) and same_bits(y, expected)


def test_gradients_that_are_not_dense(spy):
    lstm, x = make(stateful=False, num_layers=2), noise(2, 3, 3)
    y = lstm(x)[0]
    y.sum().backward()  # an expanded number
    assert spy.taken() == (2, 2)
    found = [p.grad.clone() for p in lstm.parameters()]
    lstm.zero_grad()
    lstm(x)[0].backward(torch.ones_like(y))
    for p, was in zip(lstm.parameters(), found, strict=True):
        assert same_bits(p.grad, was)
    y = lstm(x)[0]
    spy.taken()
    with Seen():  # the regular path's backward, from what the short one saved
        again = torch.autograd.grad(y.sum(), list(lstm.parameters()))
    assert spy.taken() == (0, 0)
    assert all(same_bits(*pair) for pair in zip(again, found, strict=True))


def test_a_graph_kept_gives_the_same_again(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    y = lstm(x)[0]
    weights = list(lstm.parameters())
    loss = y.square().mean()
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    second = torch.autograd.grad(loss, weights)
    assert spy.taken() == (1, 2)
    assert all(same_bits(*pair) for pair in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, weights)


@pytest.mark.slow
def test_gradients_of_gradients(spy):
    lstm, x = make(stateful=False, num_layers=2), noise(3, 2, 3).requires_grad_()
    hx = tuple(noise(2, 2, 5, seed=seed).requires_grad_() for seed in (4, 5))
    names = [name for name, _ in lstm.named_parameters()]

    def work(x, h0, c0, *weights):
        changed = dict(zip(names, weights, strict=True))
        y, (h_n, c_n) = torch.func.functional_call(lstm, changed, (x, (h0, c0)))
        return y, h_n, c_n

    inputs = (x, *hx, *lstm.parameters())
    assert torch.autograd.gradcheck(work, inputs)
    forward, backward = spy.taken()
    assert forward > 0 and backward > 0
    assert torch.autograd.gradgradcheck(work, inputs)


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l0", "y"])
def test_what_backward_needs_must_not_be_changed(spy, name):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    y = lstm(x)[0]
    loss = (y * 2).sum()
    with torch.no_grad():
        (y if name == "y" else getattr(lstm, name)).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_on_saved_tensors_are_called_once(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    packed, unpacked = [], []

    def pack(t):
        packed.append(t.shape)
        return t

    def unpack(t):
        unpacked.append(t.shape)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = lstm(x)[0]
    y.backward(torch.ones_like(y))
    assert spy.taken() == (1, 1) and packed and sorted(packed) == sorted(unpacked)


@pytest.mark.parametrize("again", ["short", "long"])
def test_activation_checkpointing(spy, again):
    lstm, x = make(stateful=False, num_layers=2), noise(2, 3, 3).requires_grad_()
    reset = torch.rand(2, 3, generator=torch.Generator().manual_seed(1)) < 0.4
    inputs = [x, *lstm.parameters()]

    def run(x):
        return lstm(x, reset_mask=reset)[0].square()

    expected = torch.autograd.grad(run(x).sum(), inputs)
    spy.taken()
    y = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
    assert spy.taken() == (2, 0)
    if again == "short":
        found = torch.autograd.grad(y.sum(), inputs)
        assert spy.taken() == (2, 2)
    else:  # as when a profiler has been started in between
        found = spy.regular_path(lambda: torch.autograd.grad(y.sum(), inputs))
        assert spy.taken()[0] == 0
    assert all(same_bits(*pair) for pair in zip(found, expected, strict=True))


def test_nothing_is_kept_when_the_graph_goes(spy):
    lstm, x = make(stateful=False), noise(2, 3, 3)
    gc.collect()
    gc.disable()
    try:
        y = lstm(x)[0]
        gone = [weakref.ref(t) for t in (y, *y.grad_fn.saved_tensors[-2:])]
        del y
        assert spy.taken() == (1, 0) and all(ref() is None for ref in gone)
    finally:
        gc.enable()


def test_large_gradients_are_given_back_and_right(spy):
    lstm = make(input_size=256, hidden_size=256, stateful=False, dtype=torch.float32)
    x = noise(1, 1, 256, dtype=torch.float32)
    expected = trained(lstm, x)
    kept = [p.grad for p in lstm.parameters()]
    copies = [grad.clone() for grad in kept]
    for seed in range(2, 6):
        trained(lstm, noise(1, 1, 256, seed=seed, dtype=torch.float32))
    assert all(same_bits(*pair) for pair in zip(kept, copies, strict=True))
    assert_same(trained(lstm, x), expected)


def test_threads_train_at_the_same_time(spy):
    lstm = make(stateful=False, hidden_size=40, num_layers=2)
    inputs = [noise(4, 3, 3, seed=seed) for seed in range(4)]

    def gradients(x):
        return torch.autograd.grad(lstm(x)[0].square().mean(), list(lstm.parameters()))

    expected, found = [gradients(x) for x in inputs], [None] * len(inputs)

    def work(k):
        for _ in range(20):
            found[k] = gradients(inputs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair in zip(expected, found, strict=True):
        assert all(same_bits(*grads) for grads in zip(*pair, strict=True))
