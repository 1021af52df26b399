"""The report on the times: ratios to the best peer, losing shapes first, and the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, NamedTuple, TypeVar

from benchmarks.cpu.timing import Timing
from benchmarks.cpu.weight_read_floor import NAME as WEIGHT_READ_FLOOR
from benchmarks.shapes import Shape

KINDS = ("step", "infer", "train", "resets")  # "step": inference with T = 1
TITLES = {
    "step": "one step, inference",
    "infer": "sequence, inference",
    "train": "sequence, training",
    "train, T = 1": "one step, training",
    "resets": "resets in the window, training",
}


@dataclass
class Row:
    """The candidates' times for one shape."""

    kind: str
    dtype: str
    shape: Shape
    times: dict[str, Timing]
    floor: float  # seconds at the machine's peak
    limit: str  # unit of the peak: bytes/s or FLOP/s
    others: float  # share of the processors that other processes took meanwhile
    absent: dict[str, str]  # missing peers and peers with wrong results, and the reason

    @property
    def ours(self) -> Timing:
        return self.times["ours"]

    @property
    def group(self) -> str:
        return "train, T = 1" if self.kind == "train" and self.shape.T == 1 else self.kind

    @property
    def best_peer(self) -> str:
        peers = [
            name for name in self.times if not name.startswith("ours") and name != WEIGHT_READ_FLOOR
        ]
        return min(peers, key=lambda name: self.times[name].over(self.ours))

    @property
    def ratio(self) -> float:
        return self.times[self.best_peer].over(self.ours)

    @property
    def weight_read(self) -> Timing | None:
        """Time of a call with only the step's products, in the same rounds."""
        return self.times.get(WEIGHT_READ_FLOOR)

    @property
    def share(self) -> float:
        """The share of our time that the products need at least."""
        return (
            self.weight_read.over(self.ours) if self.weight_read else self.floor / self.ours.median
        )

    @property
    def at_most(self) -> float:
        """The ratio of an ideal call, whose products run at the machine's peak."""
        peer = self.times[self.best_peer]
        return peer.over(self.weight_read) if self.weight_read else self.ratio / self.share

    @property
    def noisy(self) -> bool:
        """Whether the row is too noisy to trust: it gets a "?", and summaries leave it out."""
        spreads = self.ours.spread, self.times[self.best_peer].spread
        return max(spreads) > 0.25 or self.others > 0.1

    def against(self, peer: str) -> float | None:
        """The ratio to the best candidate whose name begins with ``peer``."""
        found = [timing for name, timing in self.times.items() if name.startswith(peer)]
        return min((timing.over(self.ours) for timing in found), default=None)

    def json(self) -> dict[str, Any]:
        times = {
            name: {
                "median us": round(t.median * 1e6, 3),
                "quartiles us": [round(t.low * 1e6, 3), round(t.high * 1e6, 3)],
                "samples": t.samples,
                "turns us": [round(turn * 1e6, 3) for turn in t.turns],
            }
            for name, t in self.times.items()
        }
        return {
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": self.shape._asdict(),
            "ratio": round(self.ratio, 3),
            "best peer": self.best_peer,
            "ratio at most": round(self.at_most, 3),
            "share of peak": round(self.share, 3),
            "peak of": WEIGHT_READ_FLOOR if self.weight_read else self.limit,
            "taken by other processes": round(self.others, 3),
            "times": times,
            "left out": {name: why for name, why in self.absent.items() if name not in self.times},
            "wrong": {name: why for name, why in self.absent.items() if name in self.times},
        }


RowT = TypeVar("RowT", bound=Row)  # a GPU's rows are a subclass


@dataclass
class FeatureCost:
    """The cost of a feature: microseconds, or a share of the same call without the feature."""

    what: str
    dtype: str
    shape: Shape
    ours: Timing
    base: Timing
    relative: bool = True
    most: float | None = None  # the target, microseconds or a share

    @property
    def cost(self) -> float:
        more = self.ours.median - self.base.median
        return more / self.base.median if self.relative else more * 1e6

    def text(self, cost: float) -> str:
        return f"{cost:.0%}" if self.relative else f"{cost:.1f} us"

    def json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "dtype": self.dtype,
            "shape": self.shape._asdict(),
            "us": [round(t.median * 1e6, 3) for t in (self.ours, self.base)],
            "cost": self.text(self.cost),
        }


class Target(NamedTuple):
    """A goal and the measured result; None: no trusted row shows it."""

    text: str
    goal: float
    got: float | None

    @property
    def verdict(self) -> str:
        return (
            "no trusted row" if self.got is None else "met" if self.got >= self.goal else "MISSED"
        )


def trusted(rows: Iterable[RowT]) -> list[RowT]:
    """The rows that count in a summary."""
    return [row for row in rows if not row.noisy]


def uncounted(rows: Sequence[Row]) -> str:
    """The number of rows that do not count in a summary, and the losses among them."""
    noisy = [row for row in rows if row.noisy]
    losing = sum(row.ratio < 1 for row in noisy)
    return (
        f"not counted: {len(noisy)} of {len(rows)} rows, marked ? above; "
        f"{losing} of them slower than the best peer"
    )


def mean(ratios: Iterable[float]) -> float | None:
    known = list(ratios)
    return geometric_mean(known) if known else None


def targets(rows: list[Row]) -> list[Target]:
    """The goals: ratios of a peer's time to ours, on two cores. Noisy rows do not count."""
    rows = trusted(rows)

    def found(kind: str, dtype: str) -> list[Row]:
        return [row for row in rows if row.group == kind and row.dtype == dtype]

    def step(shape: Shape, dtype: str, peer: str) -> float | None:
        each = (row.against(peer) for row in found("step", dtype) if row.shape == shape)
        return next(each, None)

    listed = []
    for name, kinds, dtype, goal, least in (
        ("training", ("train", "train, T = 1"), "float32", 1.3, 0.95),
        ("training", ("train", "train, T = 1"), "bfloat16", 1.8, 1.0),
        (TITLES["infer"], ("infer",), "float32", 1.25, 0.95),
        (TITLES["infer"], ("infer",), "bfloat16", 1.1, None),
    ):
        ratios = [row.ratio for kind in kinds for row in found(kind, dtype)]
        listed.append(Target(f"{name}, {dtype}, mean", goal, mean(ratios)))
        if least is not None:
            listed.append(Target(f"{name}, {dtype}, worst", least, min(ratios, default=None)))
    for H, dtype, peer, goal in (
        *((H, "float32", "ONNX Runtime", 1.5) for H in (64, 128, 256, 512)),
        (1024, "float32", "ONNX Runtime", 1.0),
        (1024, "bfloat16", "ONNX Runtime", 1.8),
        (256, "float32", "nn.LSTM", 20.0),
        (512, "float32", "nn.LSTM", 20.0),
    ):
        text = f"T = B = 1, H = {H}, {dtype}, against {peer}"
        shape = Shape(1, 1, H, H, 1)
        listed.append(Target(text, goal, step(shape, dtype, peer)))
    loops = [row.against("loop over") for row in found("resets", "float32")]
    worst = min((ratio for ratio in loops if ratio is not None), default=None)
    listed.append(Target("resets, float32, against the loop over steps, worst", 8.0, worst))
    return listed


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f}" if seconds >= 1e-4 else f"{seconds * 1e6:.1f}"


def print_rows(rows: list[Row]) -> None:
    """Prints medians in microseconds, spreads and ratios; the worst row first."""
    rows = sorted(rows, key=lambda row: row.ratio)
    losing = [row for row in rows if row.ratio < 1]
    print(f"\nSlower than the best peer in {len(losing)} of {len(rows)} rows", end="")
    print(", which come first:\n" if losing else ".\n")
    print(
        f"{'kind':7}{'dtype':9}{'T, B, I, H, L':>22}{'ratio':>7}{'at most':>9}{'of peak':>9}",
        end="",
    )
    print("   medians in us")
    for row in rows:
        print(f"{row.kind:7}{row.dtype:9}{row.shape!s:>22}{row.ratio:>6.2f}x", end="")
        print(f"{row.at_most:>8.2f}x", end="")
        star = "+" if row.weight_read else "*" if row.limit == "bytes/s" else " "
        doubt = "?" if row.noisy else " "
        print(f"{row.share:>8.0%}{star} {doubt} ", end="")
        order = sorted(row.times.items(), key=lambda item: (item[0] != "ours", item[1].median))
        print(", ".join(f"{n} {microseconds(t.median)} ±{t.spread:.0%}" for n, t in order))
    print(
        "\nratio: the best peer's time / ours in each round of turns; median of the rounds.\n"
        "at most: the ratio of an ideal call: its products and cells run at the rate of the\n"
        "fastest large product. (*): reading a step's weights takes longer, and sets the limit.\n"
        "(+): the limit is a module call that reads the weights, multiplies, and does nothing\n"
        "else, in the same rounds of turns.\n"
        "±: half the distance between the quartiles, as a share of the median. ?: noisy: above\n"
        "25% for ours or the best peer, or other processes took over 10% of the processors."
    )


def print_feature_costs(costs: list[FeatureCost]) -> None:
    print("\nCost of a feature, against the same call without:")
    for cost in costs:
        print(f"{cost.what:30}{cost.dtype:9}{cost.shape!s:>22}", end="")
        print(f"{cost.text(cost.cost):>9}", end="")
        if cost.most is not None:
            met = "met" if cost.cost <= cost.most else "MISSED"
            print(f"   target {cost.text(cost.most):>6}: {met}", end="")
        print()


def print_absent(rows: list[Row]) -> None:
    """Prints missing peers and peers with wrong results; each reason once."""
    reasons: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for item in row.absent.items():
            reasons.setdefault(item, []).append(row)
    for (name, why), found in reasons.items():
        row = found[0]
        if name in row.times:
            print(f"\n{name} {why}, in {row.kind} {row.dtype} {row.shape}; timed all the same")
        else:
            print(f"\nleft out: {name}: {why}")


def print_summary(rows: list[Row]) -> None:
    """Prints the mean and the worst of the trusted rows, for each group and dtype."""
    print(f"\n{'':32}{'dtype':9}{'rows':>5}{'mean':>8}{'at most':>9}{'worst':>8}")
    for group, title in TITLES.items():
        for dtype in dict.fromkeys(row.dtype for row in rows):
            every = [row for row in rows if row.group == group and row.dtype == dtype]
            found = trusted(every)
            if every:
                print(f"{title:32}{dtype:9}{len(found):>5}", end="" if found else "\n")
            if found:
                worst = min(found, key=lambda row: row.ratio)
                average = geometric_mean(row.ratio for row in found)
                limit = geometric_mean(row.at_most for row in found)
                print(f"{average:>7.2f}x{limit:>8.2f}x", end="")
                print(f"{worst.ratio:>7.2f}x  at {worst.shape}, by {worst.best_peer}")
    print(uncounted(rows))


def print_targets(listed: list[Target]) -> None:
    print(f"\n{'target':56}{'goal':>7}{'got':>8}")
    for target in listed:
        got = "" if target.got is None else f"{target.got:.2f}x"
        print(f"{target.text:56}{target.goal:>6}x{got:>8}  {target.verdict}")
