"""Computes how fast a step of an LSTM can be on a chip, from the figures of microbench.py.

A step of a pass, forward or backward, takes no less than the longest of

    products   2 B 4H (I + H) operations, backward 2 B 4H (I + 2H) more, over the rate of the type:
               multiply-adds for float32, mma() for the others
    memory     bytes of device memory over the rate of a copy: gates_x, 4 bytes each, written and
               read, and y written; in training the gates and cells that backward needs, written;
               backward reads these and the gradient of y, and writes and reads that of the gates
    weights    weight_hh, 4 H H numbers, over the rate of all SMs' shared memory

and the exchange of h: none if the weights fit one block's shared memory, a cluster's barrier if
they fit eight, or else a flag through L2. Both weights come from memory once a call.

Each rate is the best one measured, whether or not one kernel can reach them all. Two things can be
faster: data that stays in the L2 cache, and a library's products by instructions other than mma().
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Chip = dict[str, Any]  # as microbench.py writes it
SIZES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}  # bytes
SUM = 4  # bytes of a sum
BLOCKS = 8  # of a cluster


@dataclass
class Floor:
    us: float  # a step
    limit: str  # the longest of its terms


def product_rate(chip: Chip, dtype: str) -> float:
    """Operations a microsecond: the best rate of the type."""
    numbers: dict[str, float] = chip["numbers"]
    begin = {"float32": "fma_float32", "tf32": "mma_tf32"}.get(dtype, "mma_bfloat16")
    rates = (
        value
        for name, value in numbers.items()
        if name.startswith(begin) and name.endswith("_TFLOP_per_s")
    )
    return 1e6 * max(rates)


def exchange_us(chip: Chip, weight_bytes: int) -> float:
    room = chip["machine"]["shared_bytes_per_block"]
    if weight_bytes <= room:
        return 0.0
    numbers: dict[str, float] = chip["numbers"]
    barrier = numbers.get(f"cluster_barrier_{BLOCKS}_blocks_us")  # not every chip has clusters
    if barrier is not None and weight_bytes <= BLOCKS * room:
        return barrier
    return numbers["flag_one_way_us"]


def floor_us(chip: Chip, T: int, B: int, I: int, H: int, dtype: str, train: bool) -> Floor:  # noqa: E741
    """The floor of a forward step, in training plus a backward step. See above."""
    numbers, size, gates = chip["numbers"], SIZES[dtype], 4 * H
    recurrent = gates * H * size
    once = gates * (I + H) * size / T
    saved = B * gates * size + B * H * SUM
    between = 2 * B * gates * SUM  # gates_x forward, gradients of gates backward
    y = B * H * size
    passes = [(gates * (I + H), between + y + (saved if train else 0))]
    if train:
        passes.append((gates * (I + 2 * H), between + y + saved))
    shared = 1e3 * numbers["shared_read_GB_per_s_per_SM"] * chip["machine"]["SMs"]
    total, sums = 0.0, dict.fromkeys(("products", "memory", "weights", "exchange"), 0.0)
    for multiplied, moved in passes:
        terms = {
            "products": 2 * B * multiplied / product_rate(chip, dtype),
            "memory": (moved + once) / (1e3 * numbers["memory_copy_GB_per_s"]),
            "weights": recurrent / shared,
        }
        exchange = exchange_us(chip, recurrent)
        total += max(terms.values()) + exchange
        for name, value in {**terms, "exchange": exchange}.items():
            sums[name] += value
    return Floor(total, max(sums, key=lambda name: sums[name]))


def read(path: Path) -> Chip | None:
    """The figures that microbench.py has written; None without figures of this device."""
    if not path.exists():
        return None
    chip: Chip = json.loads(path.read_text())
    return chip
