"""Prints, writes and plots the results of benchmarks/gpu/bench.py."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

import stateful_lstm
from benchmarks.cpu import machine
from benchmarks.cpu.report import Row, trusted, uncounted
from benchmarks.cpu.resets import NO_RESETS
from benchmarks.gpu import roofline

TITLES = {
    "step": "one step",
    "graph": "one step in a CUDA graph",
    "infer": "sequence, inference",
    "train": "sequence, training",
    "loop": "the loop, inference",
    "loop train": "the loop, training",
    "resets": "resets, training",
}


@dataclass
class GpuRow(Row):
    """A row of candidates' times. The fields for other processes on a CPU are unused."""

    floor: float = 0.0
    limit: str = ""
    others: float = 0.0
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        return any(not name.startswith("ours") for name in self.times)

    @property
    def multiple(self) -> float | None:
        """This library's time in multiples of the floor; None without a floor."""
        return self.ours.median / self.floor if self.floor else None

    @property
    def resets_cost(self) -> float | None:
        """The cost of resets in this library, relative to the call without."""
        without = self.times.get(NO_RESETS)
        return without and self.ours.median / without.median - 1

    def json(self) -> dict[str, Any]:
        steps = self.shape.T * 1e-6
        times = {
            name: {
                "us a step": round(t.median / steps, 4),
                "quartiles us a step": [round(t.low / steps, 4), round(t.high / steps, 4)],
                "samples": t.samples,
            }
            for name, t in self.times.items()
        }
        floor = {
            "us a step": round(self.floor / steps, 4),
            "limit": self.limit,
            "multiple": round(self.multiple or 0.0, 3),
        }
        return {
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": self.shape._asdict(),
            "ratio": round(self.ratio, 3) if self.comparable else None,
            "best peer": self.best_peer if self.comparable else None,
            "floor": floor if self.floor else None,
            "times": times,
            "left out": self.absent,
        }

    def line(self) -> str:
        shape = ", ".join(map(str, (self.shape.T, self.shape.B, self.shape.H)))
        ratio = f"{self.ratio:.2f}x" if self.comparable else "alone"
        doubt = "?" if self.comparable and self.noisy else " "
        order = sorted(self.times.items(), key=lambda item: (item[0] != "ours", item[1].median))
        times = ", ".join(
            f"{name} {time.median / self.shape.T * 1e6:.3g} ±{time.spread:.0%}"
            for name, time in order
        )
        floor = f"{self.multiple:.1f}x {self.limit}" if self.multiple else ""
        return f"{self.kind:11}{self.dtype:9}{shape:>14}{ratio:>8}{doubt} {floor:15} {times}"


HEADING = (
    f"{'kind':11}{'type':9}{'T, B, H':>14}{'ratio':>8}  {'of the floor':15} "
    "medians in microseconds a step"
)
NOTES = (
    "ratio: the best peer's median / ours. ±: half the distance of the quartiles, of the median.\n"
    "?: not to be trusted, above 25%. Each shape has I = H and one layer.\n"
    "of the floor: ours, in multiples of what roofline.py finds, and what bounds that; where\n"
    "benchmarks/gpu/microbench.py has measured the device.\n"
)


def by_ratio(rows: list[GpuRow]) -> list[GpuRow]:
    """The worst rows first, rows without a peer last."""
    return sorted(rows, key=lambda row: row.ratio if row.comparable else float("inf"))


def summary(rows: list[GpuRow]) -> list[str]:
    """One line for each kind and type, from the reliable rows."""
    compared = [row for row in rows if row.comparable]
    lines = [f"{'':26}{'type':9}{'rows':>5}{'lost':>5}{'mean':>8}{'worst':>8}"]
    for kind, title in TITLES.items():
        for dtype in dict.fromkeys(row.dtype for row in rows):
            found = trusted(r for r in compared if r.kind == kind and r.dtype == dtype)
            if not found:
                continue
            worst, lost = by_ratio(found)[0], sum(row.ratio < 1 for row in found)
            mean = geometric_mean(row.ratio for row in found)
            place = f"B = {worst.shape.B}, H = {worst.shape.H}, by {worst.best_peer}"
            lines.append(
                f"{title:26}{dtype:9}{len(found):>5}{lost:>5}{mean:>7.2f}x{worst.ratio:>7.2f}x"
                f"  {place}"
            )
    lines.append(uncounted(compared))
    costs = [row.resets_cost for row in rows if row.resets_cost is not None]
    if costs:
        lines.append(f"resets cost {min(costs):.0%} to {max(costs):.0%} of the call without")
    return lines


def left_out(rows: list[GpuRow]) -> list[str]:
    """The candidates that were left out: where, and why."""
    places: dict[tuple[str, str], list[GpuRow]] = {}
    for row in rows:
        for item in row.absent.items():
            places.setdefault(item, []).append(row)
    return [
        f"left out: {name}, {len(where)} rows ({', '.join(dict.fromkeys(r.kind for r in where))}): "
        f"{why}"
        for (name, why), where in places.items()
    ]


def driver() -> str:
    """The driver and the fastest clocks, from nvidia-smi."""
    query = "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().replace("\n", "; ")


def description(device: torch.device) -> dict[str, Any]:
    about = {
        "processor": machine.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": machine.commit(),
        "command": " ".join(["python -m benchmarks.gpu.bench", *sys.argv[1:]]),
        "packages": {name: machine.package(name) for name in ("torchrl", "flashrnn", "triton")},
        "info": stateful_lstm.info(),
    }
    if device.type == "cpu":
        return {"device": machine.processor(), **about}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "GiB": round(properties.total_memory / 2**30, 1),
        "driver, clocks": driver(),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        **about,
    }


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def microbench_file(device: str) -> str:
    """The file of microbench.py's figures for a device, among the results."""
    return f"microbench-{slug(device)}.json"


def give_floor(row: GpuRow, chip: roofline.Chip) -> None:
    """Adds the floor to a row of a sequence of one layer, as all of them are."""
    if row.kind in ("infer", "train"):
        found = roofline.floor_us(chip, *row.shape[:4], row.dtype, row.kind == "train")
        row.floor, row.limit = found.us * row.shape.T * 1e-6, found.limit


def write(
    path: Path, about: dict[str, Any], rows: list[GpuRow], failed: list[str], unmeasured: int
) -> None:
    contents = {
        "machine": about,
        "failed": failed,
        "rows not reached": unmeasured,
        "rows": [row.json() for row in by_ratio(rows)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")
    lines = [HEADING, *(row.line() for row in by_ratio(rows)), NOTES, *summary(rows)]
    path.with_suffix(".txt").write_text("\n".join([*lines, *left_out(rows), *failed]) + "\n")


def draw(rows: list[GpuRow], about: dict[str, Any], path: Path) -> str:
    """Plots one panel for each kind; returns a message about it."""
    try:
        from benchmarks.cpu import plot
    except ImportError as error:
        return f"no plot: {error}"
    rows = [row for row in rows if row.comparable]
    if not rows:
        return "no plot: nothing to compare"
    panels = {title: [row for row in rows if row.kind == kind] for kind, title in TITLES.items()}
    plot.draw(panels, f"{about['device']}, torch {about['torch']}", path)
    return f"plot: {path}"
