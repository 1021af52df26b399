"""A spy on the fast path of sequences, and a comparison with the regular path."""

import pytest
from state_support import noise, same_bits

from stateful_lstm.backend import operators

needs_fastpath = pytest.mark.skipif(
    operators.fastpath_forward is None,
    reason="no library, or a torch without DLPack's exchange table",
)


class LayerSpy:
    """Replaces the C functions, and counts the calls in which they do the work."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.counts = monkeypatch, {}
        for name in ("fastpath_forward", "fastpath_gradients"):
            self.watch(name, getattr(operators, name))

    def watch(self, name, inner):
        self.counts[name] = 0

        def watched(*args):
            out = inner(*args)
            self.counts[name] += out is not None
            return out

        self.monkeypatch.setattr(operators, name, watched)

    def taken(self):
        """The number of layers on the fast path since the last call: (forward, backward)."""
        counts = tuple(self.counts.values())
        self.counts = dict.fromkeys(self.counts, 0)
        return counts

    def regular_path(self, work):
        with self.monkeypatch.context() as patch:
            patch.setattr(operators, "fastpath_forward", None)
            return work()


def trained(lstm, x, weights_of_loss=None, **options):
    """Results and gradients of a call, by name. x and hx are copied to new leaves."""
    lstm.zero_grad()
    x = x.detach().clone().requires_grad_()
    if "hx" in options:
        options["hx"] = tuple(t.detach().clone().requires_grad_() for t in options["hx"])
    y, (h_n, c_n) = lstm(x, **options)
    results = {"y": y, "h_n": h_n, "c_n": c_n}
    loss = 0
    for seed, (name, out) in enumerate(results.items()):
        if weights_of_loss is None or name in weights_of_loss:
            loss = loss + (out * noise(*out.shape, seed=seed, dtype=out.dtype)).sum()
    loss.backward()
    found = {name: out.detach() for name, out in results.items()} | {"x": x.grad}
    found |= {name: p.grad for name, p in lstm.named_parameters()}
    for name, t in zip(("h0", "c0"), options.get("hx", ()), strict=False):
        found[name] = t.grad
    if lstm.state is not None:
        found |= {"state h": lstm.state.h.clone(), "state c": lstm.state.c.clone()}
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if value is None or expected[name] is None:
            assert value is expected[name], name
        else:
            assert same_bits(value, expected[name]), name
