"""The weights of an LSTM, layer by layer, for the exports."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..module import StatefulLSTM


class Direction(NamedTuple):
    """One direction of one layer; gates i, f, g, o along the first dimension."""

    w_ih: Tensor  # (4H, I), or (4H, D*H) above the first layer
    w_hh: Tensor  # (4H, H)
    b_ih: Tensor | None  # (4H,)
    b_hh: Tensor | None  # (4H,)


def read_weights(lstm: nn.RNNBase, target: str) -> list[list[Direction]]:
    """The directions of each layer, with parametrizations and pruning applied.

    Raises:
        TypeError: the argument is not an ``nn.LSTM`` or a ``StatefulLSTM``.
        ValueError: the layer has a projection, which the target lacks, or weights of several
            dtypes.
    """
    if not isinstance(lstm, (nn.LSTM, StatefulLSTM)):
        raise TypeError(
            f"expected an nn.LSTM or a StatefulLSTM, got {type(lstm).__name__}. For a whole model "
            f"pass the layer inside it"
        )
    if lstm.proj_size:
        raise ValueError(
            f"{target} has no projection: expected proj_size=0, got proj_size={lstm.proj_size}"
        )
    # By name: a parametrized or pruned weight is an attribute, not a parameter.
    flat = [getattr(lstm, name).detach() for name in lstm._flat_weights_names]
    dtypes = {weight.dtype for weight in flat}
    if len(dtypes) > 1:
        raise ValueError(f"expected weights of one dtype, got {sorted(map(str, dtypes))}")
    count, directions = (4 if lstm.bias else 2), (2 if lstm.bidirectional else 1)
    found = [
        Direction(*flat[k : k + count], *[None] * (4 - count)) for k in range(0, len(flat), count)
    ]
    return [found[k : k + directions] for k in range(0, len(found), directions)]
