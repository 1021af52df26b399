"""torch.func, forward-mode differentiation and gradients of gradients around the layer."""

from __future__ import annotations

import pytest
import torch
from state_support import assert_unmoved, close, make, noise, plain, snapshot
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vjp, vmap

import stateful_lstm
from stateful_lstm import StatefulLSTM

T, B, INPUT, H = 4, 2, 3, 5

LAYERS = {
    "plain": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 4},
}
layers = pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
CONTROL = {
    "reset_mask": torch.tensor([[False, True], [False] * 2, [True, False], [False] * 2]),
    "lengths": torch.tensor([4, 2]),
}


def stateless(**options):
    return make(stateful=False, **options)


def as_function(lstm, **control):
    """Of the input and the parameters by name; also under a transform."""
    return lambda x, weights: functional_call(lstm, weights, (x,), control)[0]


@layers
@pytest.mark.parametrize("control", [{}, CONTROL], ids=["whole", "resets and lengths"])
def test_vmap_over_inputs_is_a_loop(options, control):
    lstm = stateless(**options)
    xs = noise(3, T, B, INPUT)
    found = vmap(lambda x: lstm(x, **control))(xs)
    each = [lstm(x, **control) for x in xs]
    close(found[0], torch.stack([y for y, _ in each]))
    close(found[1], tuple(torch.stack([hc[k] for _, hc in each]) for k in (0, 1)))


@layers
def test_vmap_over_everything_a_call_takes_is_a_loop(options):
    lstm = stateless(**options)
    torch.manual_seed(4)
    xs, resets = noise(3, T, B, INPUT), torch.rand(3, T, B) < 0.3
    lengths = torch.randint(0, T + 1, (3, B))
    h, c = lstm(xs[0])[1]
    hxs = tuple(torch.stack([t, -t, 2 * t]).detach() for t in (h, c))

    def total(x, hx, reset, length):
        y, (h, c) = lstm(x, hx, reset_mask=reset, lengths=length)
        return y.square().sum() + h.sum() + c.sum()

    arguments = xs, hxs, resets, lengths
    each = [(xs[k], tuple(t[k] for t in hxs), resets[k], lengths[k]) for k in range(3)]
    close(vmap(total)(*arguments), torch.stack([total(*one) for one in each]))
    close(vmap(grad(total))(*arguments), torch.stack([grad(total)(*one) for one in each]))


def test_vmap_over_weights_is_an_ensemble():
    members = [make(seed, stateful=False) for seed in range(3)]
    weights, _ = stack_module_state(members)
    x = noise(T, B, INPUT)
    found = vmap(as_function(members[0]), in_dims=(None, 0))(x, weights)
    close(found, torch.stack([member(x)[0] for member in members]))


def test_gradients_of_each_sample():
    lstm, xs = stateless(), noise(B, T, 1, INPUT)
    weights = dict(lstm.named_parameters())

    def loss(weights, x):
        return as_function(lstm)(x, weights).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(weights, xs)
    for k, x in enumerate(xs):
        each = torch.autograd.grad(lstm(x)[0].square().sum(), weights.values())
        close([found[name][k] for name in weights], list(each))


@layers
def test_jvp_and_vjp_agree(options):
    lstm, x, along = stateless(**options), noise(T, B, INPUT), noise(T, B, INPUT, seed=2)

    def run(x):
        return lstm(x, **CONTROL)[0]

    y, moved = jvp(run, (x,), (along,))
    same, pull = vjp(run, x)
    close((y, same), (run(x),) * 2)
    back = noise(*y.shape, seed=3)
    close((moved * back).sum(), (along * pull(back)[0]).sum())
    step = 1e-5
    close(moved, (run(x + step * along) - run(x - step * along)) / (2 * step), rtol=1e-6, atol=1e-8)


def test_hessian_is_the_one_of_plain_autograd():
    lstm, x = stateless(), noise(2, 1, INPUT)

    def loss(x):
        return lstm(x)[0].square().sum()

    close(hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("where", ["x", "h", "weight"])
def test_forward_mode_differentiation_outside_torch_func(recording, where):
    lstm = stateless(num_layers=2)
    weights = [p.detach().clone().requires_grad_(recording) for p in lstm.parameters()]
    point = {"x": noise(T, B, INPUT), "h": noise(2, B, H, seed=4), "weight": weights[1]}
    along = noise(*point[where].shape, seed=2)

    def run(values):
        own = [values["weight"] if k == 1 else w for k, w in enumerate(weights)]
        hx = (values["h"], torch.zeros(2, B, H, dtype=torch.float64))
        return stateful_lstm.lstm(values["x"], hx, own, num_layers=2)

    with torch.set_grad_enabled(recording), forward_ad.dual_level():
        dual = point | {where: forward_ad.make_dual(point[where], along)}
        y, (h, c) = run(dual)
        found = [forward_ad.unpack_dual(t).tangent for t in (y, h, c)]
    step = 1e-5
    above, below = (run(point | {where: point[where] + s * along}) for s in (step, -step))
    for tangent, a, b in zip(found, (above[0], *above[1]), (below[0], *below[1]), strict=True):
        close(tangent, (a - b) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("way", ["vmap", "grad", "dual"])
def test_a_resident_state_is_kept_out_of_transforms(way, steps, recording):
    lstm = make()
    lstm.allocate_state(B)
    lstm(noise(steps, B, INPUT))
    before, x = snapshot(lstm.state), noise(steps, B, INPUT)
    ways = {
        "vmap": lambda: vmap(lambda x: lstm(x)[0])(x.expand(5, *x.shape)),
        "grad": lambda: grad(lambda x: lstm(x)[0].sum())(x),
        "dual": lambda: lstm(forward_ad.make_dual(x, x)),
    }
    with (
        torch.set_grad_enabled(recording),
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="cannot carry a resident state: use stateful=False"),
    ):
        ways[way]()
    assert_unmoved(before, lstm.state)


@layers
def test_a_gradient_penalty_on_a_stateful_layer(options):
    """Through the layer with its state, as a critic on windows is trained: nn.LSTM from hx."""
    lstm = make(**options)
    oracle = plain(lstm)
    with torch.no_grad():
        lstm(noise(T, B, INPUT, seed=7))
    h, c = lstm.state.read()
    if lstm.bidirectional:  # the reverse direction starts from zero
        h[1::2], c[1::2] = 0, 0
    found = []
    for module, start in ((lstm, None), (oracle, (h, c))):
        x = noise(T, B, INPUT).requires_grad_()
        y = module(x, start)[0]
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        penalty = (slope.norm(2, dim=2) - 1).square().mean()
        found.append(torch.autograd.grad(penalty, module.parameters()))
    close(found[0], found[1])


@layers
@pytest.mark.parametrize("recompute", ["none", "gates", "segments"])
@pytest.mark.parametrize("steps", [1, T], ids=["range", "ranges"])
def test_many_gradients_at_once(options, recompute, steps, monkeypatch):
    """As ``is_grads_batched`` and vectorized Jacobians ask for them, a loop otherwise."""
    monkeypatch.setattr("stateful_lstm.backend.ranges.RANGE_ROWS", B * T // steps)
    monkeypatch.setattr("stateful_lstm.backend.ranges._RANGE_BYTES", 1)
    lstm = make(recompute=recompute, **options)
    x = noise(T, B, INPUT).requires_grad_()
    y = lstm(x)[0]
    grads, wanted = noise(6, *y.shape, seed=8), [x, *lstm.parameters()]
    found = torch.autograd.grad(y, wanted, grads, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(y, wanted, one, retain_graph=True) for one in grads]
    close(found, tuple(torch.stack(same) for same in zip(*each, strict=True)))


def test_gradgradcheck_through_the_function_on_every_backend_there_is():
    built = stateful_lstm.info()["backends"]
    names = [name for name in ("reference", "cpu") if built[name] is True]
    assert (
        "reference" in names
    )  # CUDA: tests/gpu, and in the emulator tests/cuda/test_cuda_binding.py
    weights = [p.detach().requires_grad_() for p in StatefulLSTM(2, 3).double().parameters()]
    x = noise(3, 2, 2).requires_grad_()
    for name in names:
        assert torch.autograd.gradgradcheck(
            lambda x, *w, name=name: stateful_lstm.lstm(x, None, w, backend=name)[0],
            (x, *weights),
            fast_mode=True,
        )
