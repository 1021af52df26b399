"""The shapes and dtypes of the operators' results, for torch.compile and torch.export."""

from __future__ import annotations

import torch

from .layer_stack import accumulation_dtype


def register_fakes() -> None:
    """Tells torch the shapes and dtypes of each operator's results. Needs the loaded library."""

    @torch.library.register_fake("stateful_lstm::lstm_forward")
    def _(  # type: ignore[no-untyped-def]
        x, w_ih, w_hh, b_ih, b_hh, w_hr, h0, c0, reset, lengths, mask, reverse, save, *options
    ):
        T, B, H = x.size(0), x.size(1), w_hh.size(0) // 4
        P, acc = w_hh.size(1), accumulation_dtype(w_hh.dtype)
        return (
            w_hh.new_empty(T, B, P),
            w_hh.new_empty(B, P),
            w_hh.new_empty(B, H, dtype=acc),
            w_hh.new_empty(T if save == 2 else 0, B, 4 * H),
            w_hh.new_empty(T if save >= 1 else 0, B, H, dtype=acc),
        )

    @torch.library.register_fake("stateful_lstm::lstm_backward")
    def _(  # type: ignore[no-untyped-def]
        gy, gh, gc, gates, cells, weight_hh, weight_hr, c0, reset, lengths, mask, reverse, *options
    ):
        T, B, H = cells.shape
        P, acc = weight_hh.size(1), accumulation_dtype(weight_hh.dtype)
        return (
            weight_hh.new_empty(T, B, 4 * H, dtype=acc),
            weight_hh.new_empty(B, P, dtype=acc),
            weight_hh.new_empty(B, H, dtype=acc),
            weight_hh.new_empty(0 if weight_hr is None else T, B, P, dtype=acc),
        )

    @torch.library.register_fake("stateful_lstm::lstm_gradients")
    def _(  # type: ignore[no-untyped-def]
        gy, gh, gc, gates, cells, x, y, h0, c0, weight_ih, weight_hh, weight_hr, *others
    ):
        T, B, H = cells.shape
        I, P, wanted = x.size(2), weight_hh.size(1), others[-1]  # noqa: E741
        acc = accumulation_dtype(weight_hh.dtype)
        final = weight_hh.dtype if wanted & 32 else acc
        return (
            x.new_empty(T if wanted & 1 else 0, B, I),
            x.new_empty(4 * H if wanted & 2 else 0, I, dtype=final),
            x.new_empty(4 * H if wanted & 4 else 0, P, dtype=final),
            x.new_empty(4 * H if wanted & 8 else 0, dtype=final),
            x.new_empty(B if wanted & 16 else 0, P, dtype=acc),
            x.new_empty(B, H, dtype=acc),
            x.new_empty(0 if weight_hr is None else T, B, P, dtype=acc),
        )

    @torch.library.register_fake("stateful_lstm::lstm_gates")
    def _(x, *others):  # type: ignore[no-untyped-def]
        return x.new_empty(x.size(0), x.size(1), others[1].size(0))

    @torch.library.register_fake("stateful_lstm::lstm_step_")
    def _(x, weights, h, c, state_indices, reset, lengths, bias, bidirectional, *options):  # type: ignore[no-untyped-def]
        T, B, P = x.size(0), x.size(1), h.size(2)
        return (
            x.new_empty(T, B, (2 if bidirectional else 1) * P),
            x.new_empty(h.size(0), B, P),
            x.new_empty(h.size(0), B, c.size(2)),
        )

    @torch.library.register_fake("stateful_lstm::state_gather")
    def _(h, c, state_indices):  # type: ignore[no-untyped-def]
        B = h.size(1) if state_indices is None else state_indices.size(0)
        return h.new_empty(h.size(0), B, h.size(2)), c.new_empty(c.size(0), B, c.size(2))

    @torch.library.register_fake("stateful_lstm::state_copy")
    def _(x):  # type: ignore[no-untyped-def]
        return torch.empty_like(x)

    for name in ("state_scatter_", "state_write_"):

        @torch.library.register_fake(f"stateful_lstm::{name}")
        def _(h, c, state_indices, h_n, c_n):  # type: ignore[no-untyped-def]
            return None
