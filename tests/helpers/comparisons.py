"""Comparisons with nn.LSTM and with an oracle: random cases, results by name, tolerances.

The oracle follows the contract literally: one row, one step, one direction at a time. Autograd
runs through it, so it is the truth for gradients too.
"""

import pytest
import torch
from torch import Tensor, nn

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
BACKENDS = ["reference", "cpu"]
MARKS = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


# ---- the oracle --------------------------------------------------------------------------------


def cell(x, h, c, weights, bias):
    """One LSTM step of one row: x (I,), h (P,), c (H,) -> h (P,), c (H,)."""
    weights = list(weights)
    w_ih, w_hh = weights[:2]
    gates = w_ih @ x + w_hh @ h
    if bias:
        gates = gates + weights[2] + weights[3]
    i, f, g, o = gates.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    if len(weights) == (5 if bias else 3):  # the last weight is weight_hr: a projection
        h = weights[-1] @ h
    return h, c


def walk(xs, h, c, weights, bias, resets, reverse):
    """One direction of one layer over one row's valid steps: xs and resets are lists."""
    steps = range(len(xs))
    out = {}
    for t in reversed(steps) if reverse else steps:
        # A True at t cuts between t - 1 and t, in both directions.
        cut = (t + 1 < len(xs) and resets[t + 1]) if reverse else resets[t]
        if cut:
            h, c = torch.zeros_like(h), torch.zeros_like(c)
        h, c = cell(xs[t], h, c, weights, bias)
        out[t] = h
    return [out[t] for t in steps], h, c


def oracle(
    x,
    hx,
    weights,
    *,
    num_layers=1,
    bias=True,
    bidirectional=False,
    proj_size=0,
    reset_mask=None,
    lengths=None,
):
    """The contract, literally: x (T, B, I), hx (L*D, B, .) or None, masks time-major."""
    steps, batch, _ = x.shape
    directions = 2 if bidirectional else 1
    stacks = num_layers * directions
    hidden = weights[0].shape[0] // 4
    width = proj_size or hidden
    if hx is None:
        hx = x.new_zeros(stacks, batch, width), x.new_zeros(stacks, batch, hidden)
    each = len(weights) // stacks
    rows = []
    for b in range(batch):
        n = steps if lengths is None else int(lengths[b])
        resets = [reset_mask is not None and bool(reset_mask[t, b]) for t in range(n)]
        xs = [x[t, b] for t in range(n)]
        h_n, c_n = [], []
        for layer in range(num_layers):
            sides = []
            for k in range(layer * directions, (layer + 1) * directions):
                own = weights[k * each : (k + 1) * each]
                ys, h, c = walk(xs, hx[0][k, b], hx[1][k, b], own, bias, resets, k % directions)
                sides.append(ys)
                h_n.append(h)
                c_n.append(c)
            xs = [torch.cat(side) for side in zip(*sides, strict=True)]
        padding = [x.new_zeros(directions * width)] * (steps - n)
        rows.append((torch.stack(xs + padding), torch.stack(h_n), torch.stack(c_n)))
    output, h_n, c_n = (torch.stack(parts, 1) for parts in zip(*rows, strict=True))
    return output, (h_n, c_n)


# ---- random cases ------------------------------------------------------------------------------


def random_hx(lstm, batch=None):
    """A random (h, c) for an LSTM module, unbatched if batch is None."""
    stacks = lstm.num_layers * (2 if lstm.bidirectional else 1)
    rows = () if batch is None else (batch,)
    widths = lstm.proj_size or lstm.hidden_size, lstm.hidden_size
    like = next(lstm.parameters())
    return tuple(torch.randn(stacks, *rows, width).to(like) for width in widths)


def settings(lstm):
    """The keywords of stateful_lstm.lstm that describe a module."""
    names = ["num_layers", "bias", "batch_first", "dropout", "training", "bidirectional"]
    return {name: getattr(lstm, name) for name in [*names, "proj_size"]}


def double(tree):
    """A float64 copy of a tensor, or of a tuple of them, or None."""
    if tree is None:
        return None
    return tree.double() if isinstance(tree, Tensor) else tuple(t.double() for t in tree)


def results(call, x, hx, weights):
    """All results of a call, by name: outputs, and the gradients of x, hx and each weight.

    call(x, hx) -> output, (h_n, c_n). It uses `weights` (name -> leaf tensor). The cotangents are
    exact in bfloat16, and so are the same in every dtype.
    """
    x = x.detach().requires_grad_()
    leaves = {"input": x, **weights}
    if hx is not None:
        hx = tuple(t.detach().requires_grad_() for t in hx)
        leaves |= {"h_0": hx[0], "c_0": hx[1]}
    output, (h_n, c_n) = call(x, hx)
    outputs = {"output": output, "h_n": h_n, "c_n": c_n}
    seeds = [cotangent(t, k) for k, t in enumerate(outputs.values())]
    grads = gradients(list(outputs.values()), list(leaves.values()), seeds)
    named = {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True)}
    return {name: t.detach() for name, t in outputs.items()} | named


def gradients(outputs, leaves, seeds):
    """torch.autograd.grad, with zeros for leaves that no output reaches."""
    used = [k for k, output in enumerate(outputs) if output.requires_grad]
    if not used:
        return [torch.zeros_like(leaf) for leaf in leaves]
    outputs, seeds = [outputs[k] for k in used], [seeds[k] for k in used]
    return torch.autograd.grad(outputs, leaves, seeds, materialize_grads=True)


def cotangent(like, seed):
    """A random tensor of like's shape, dtype and device, with the same numbers for every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator).bfloat16().to(like)


def module_results(lstm, x, hx=None):
    return results(lambda x, hx: lstm(x, hx), x, hx, dict(lstm.named_parameters()))


# ---- tolerances --------------------------------------------------------------------------------


def eps(dtype):
    return torch.finfo(dtype).eps


def tolerance(dtype, steps, width):
    """A bound on rounding, relative to the largest value: eps x length x norm.

    steps: the number of cells in a chain (T x L). width: the number of terms in one sum (I + H, and
    T x B for a weight's gradient). Sums are in float32 or better: at worst eps per term and step.
    Stored values are in dtype: half an eps each, of either sign, hence the square root of steps.
    """
    accumulate = eps(dtype if dtype.itemsize > 4 else torch.float32)
    return steps * width * accumulate + 2 * eps(dtype) * steps**0.5


def error(got, truth):
    """The largest difference, relative to the truth's largest value or 1. NaN counts as wrong."""
    assert got.shape == truth.shape, f"shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    if not truth.numel():
        return 0.0
    difference = (got.double() - truth.double()).abs().max().item()
    scale = max(1.0, truth.abs().max().item())
    return difference / scale if difference == difference else float("inf")


def assert_close(got, truth, bound):
    """Checks that every named tensor is within the bound of the truth."""
    assert got.keys() == truth.keys()
    errors = {name: error(got[name], truth[name]) for name in truth}
    wrong = {name: e for name, e in errors.items() if not e <= bound}
    assert not wrong, f"errors above {bound:.1e}: {wrong}"


def assert_as_good_as(ours, theirs, truth):
    """Checks that no named tensor is more than twice as far from the float64 truth as nn.LSTM's.

    The floor is four roundings of the largest value, for cases where nn.LSTM is exact by luck.
    """
    assert ours.keys() == theirs.keys() == truth.keys()
    wrong = {}
    for name, expected in truth.items():
        assert ours[name].dtype == theirs[name].dtype, f"{name}: {ours[name].dtype}"
        bound = 2 * error(theirs[name], expected) + 4 * eps(ours[name].dtype)
        if not error(ours[name], expected) <= bound:
            wrong[name] = (error(ours[name], expected), bound)
    assert not wrong, f"(error, bound) by name: {wrong}"


def twin(lstm: nn.LSTM, **extras):
    """A StatefulLSTM with the settings, weights and mode of an nn.LSTM."""
    from stateful_lstm import StatefulLSTM

    like = next(lstm.parameters())
    keywords = {k: v for k, v in settings(lstm).items() if k != "training"}
    ours = StatefulLSTM(
        lstm.input_size,
        lstm.hidden_size,
        **keywords,
        device=like.device,
        dtype=like.dtype,
        **extras,
    )
    ours.load_state_dict(lstm.state_dict())
    return ours.train(lstm.training)
