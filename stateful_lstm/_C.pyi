# The compiled library's Python side: csrc/python.cpp.
from torch import Tensor, nn

def setup(tensor: type[Tensor], parameter: type[nn.Parameter]) -> bool: ...
def step(
    x: object,
    parameters: dict[str, Tensor | None],
    names: list[str],
    h: object,
    c: object,
    state_indices: object,
    reset_mask: object,
    lengths: object,
    bias: bool,
    bidirectional: bool,
    batch_first: bool,
    most_steps: int,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None: ...
