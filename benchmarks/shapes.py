"""The shapes that the benchmarks time. Tests check their results too: speed needs correctness."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """T steps, B rows, I input size, H hidden size, layers."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int

    def weights(self) -> int:
        """Numbers in all weight matrices, two a layer."""
        return 4 * self.H * ((self.I + self.H) + (self.layers - 1) * 2 * self.H)

    def operations(self, train: bool) -> int:
        """Floating-point operations of the products: 2 per multiply-add; backward needs 2x forward.

        The first layer's input needs no gradient, so backward skips that product.
        """
        forward = 2 * self.T * self.B * self.weights()
        unneeded = 2 * self.T * self.B * 4 * self.H * self.I
        return 3 * forward - unneeded if train else forward

    def __str__(self) -> str:
        return ", ".join(map(str, self))


SHAPES = [
    Shape(1, 1, 64, 64, 1),
    Shape(1, 1, 100, 100, 1),
    Shape(1, 1, 128, 128, 1),
    Shape(1, 1, 256, 256, 1),
    Shape(1, 1, 512, 512, 1),
    Shape(1, 1, 1024, 1024, 1),
    Shape(1, 1, 256, 256, 2),
    Shape(1, 1, 512, 512, 2),
    Shape(1, 16, 200, 200, 1),
    Shape(1, 16, 256, 256, 1),
    Shape(1, 16, 256, 256, 2),
    Shape(1, 64, 512, 512, 1),
    Shape(1, 64, 512, 512, 2),
    Shape(2, 16, 256, 256, 1),
    Shape(4, 1, 512, 512, 1),
    Shape(16, 1, 256, 256, 1),
    Shape(20, 4, 100, 100, 1),
    Shape(20, 3, 300, 300, 2),
    Shape(16, 32, 192, 192, 1),
    Shape(100, 32, 128, 128, 1),
    Shape(128, 64, 256, 256, 1),
    Shape(128, 64, 512, 512, 1),
    Shape(64, 16, 1024, 1024, 1),
    Shape(1000, 1, 50, 50, 2),
    Shape(512, 8, 256, 256, 2),
]

# Shapes of on-policy learners and short windows, with many weights for little work; and some sizes
# between those of SHAPES. They have a table of their own, because no target covers them.
ROLLOUTS = [
    Shape(5, 12, 128, 128, 1),
    Shape(5, 32, 64, 128, 1),
    Shape(5, 64, 256, 256, 1),
    Shape(8, 6, 512, 512, 1),
    Shape(8, 8, 512, 512, 1),
    Shape(8, 16, 256, 256, 1),
    Shape(8, 64, 128, 128, 1),
    Shape(10, 10, 100, 100, 1),
    Shape(12, 6, 384, 384, 1),
    Shape(16, 5, 256, 256, 2),
    Shape(16, 16, 256, 256, 1),
    Shape(20, 20, 512, 512, 1),
    Shape(30, 4, 100, 100, 1),
    Shape(32, 8, 256, 256, 1),
    Shape(50, 1, 100, 100, 1),
    Shape(50, 10, 40, 200, 2),
    Shape(100, 16, 384, 384, 1),
]

# Windows with resets inside, forward and backward.
RESETS = [
    Shape(128, 16, 256, 256, 1),
    Shape(512, 8, 128, 128, 1),
    Shape(128, 64, 128, 128, 1),
]

# For feature costs: STEP is compared with an empty call, the rest with a call without the feature.
STEP = SHAPES[:1]
FEATURE_COST = [Shape(100, 32, 128, 128, 1), Shape(1, 16, 256, 256, 1)]

# Small shapes, at least one of each kind: they show that the benchmark itself still runs.
QUICK = [SHAPES[0], SHAPES[5], Shape(16, 4, 32, 32, 2)]
QUICK_RESETS = [Shape(16, 4, 32, 32, 1)]
QUICK_FEATURE_COST = [Shape(16, 4, 32, 32, 1)]
