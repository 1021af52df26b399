"""The memory that `recompute` saves and the time that it costs, against recompute="none".

    python -m benchmarks.studies.recompute [--quick] [--out DIR]

Time: forward and backward of one layer with a head and a loss, alternating modes, medians.
At least: the time of "none" plus the recomputed products of forward, at the rate of a large library
product; "gates" recomputes half of them, "segments" all.
Kept: bytes that autograd holds between forward and backward; each storage counts once.
Error: relative distance of the layer's gradients from float64, for the worst weight.
Long: one window of 100,000 steps, each mode in its own process; the growth of its resident memory
after model, optimizer and input are in place.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.cpu.machine import description, flop_rate
from benchmarks.cpu.timing import Candidate, alternating
from benchmarks.shapes import Shape
from stateful_lstm import StatefulLSTM

MODES = ("none", "gates", "segments")
SHARES = {"none": 0.0, "gates": 0.5, "segments": 1.0}  # recomputed share of forward's products
SHAPES = [
    (128, 64, 256, 256),
    (512, 8, 256, 256),
    (100, 32, 128, 128),
    (2000, 4, 64, 256),
    (500, 32, 8, 128),
]
NARROW = SHAPES[:2]  # in bfloat16 too
LONG = (100_000, 4, 8, 128)
LIMIT = 800  # MiB for "segments"
MiB = 1 << 20


class Model(nn.Module):
    def __init__(self, inputs: int, hidden: int, recompute: str) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(inputs, hidden, recompute=recompute)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        out: Tensor = self.head(y)
        return out


def training(
    shape: tuple[int, ...], recompute: str, dtype: torch.dtype = torch.float32
) -> tuple[Model, Callable[[], Tensor]]:
    """A model, and a function that computes one update's gradients."""
    T, B, inputs, hidden = shape
    torch.manual_seed(0)
    model = Model(inputs, hidden, recompute).to(dtype)
    x, target = (torch.randn(T, B, n).to(dtype) for n in (inputs, 1))

    def update() -> Tensor:
        model.zero_grad()
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        return loss.detach()

    return model, update


def gradients(shape: tuple[int, ...], recompute: str, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of the layer's weights as float64; every dtype gets the same numbers."""
    T, B, inputs, hidden = shape
    torch.manual_seed(0)
    lstm = StatefulLSTM(inputs, hidden, recompute=recompute).bfloat16().to(dtype)
    x, into = (torch.randn(T, B, n).bfloat16().to(dtype) for n in (inputs, hidden))
    y, _ = lstm(x)
    return [g.double() for g in torch.autograd.grad(y, list(lstm.parameters()), into)]


def error(found: list[Tensor], truth: list[Tensor]) -> float:
    pairs = zip(found, truth, strict=True)
    return max(float((got - want).norm() / want.norm()) for got, want in pairs)


def kept(shape: tuple[int, ...], recompute: str, dtype: torch.dtype) -> int:
    """Bytes that the layer holds for backward, without its parameters and its input."""
    T, B, inputs, hidden = shape
    lstm = StatefulLSTM(inputs, hidden, recompute=recompute, dtype=dtype)
    x = torch.randn(T, B, inputs, dtype=dtype)
    others = {t.untyped_storage().data_ptr() for t in (x, *lstm.parameters())}
    found: dict[int, int] = {}

    def look(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in others:
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(look, lambda t: t):
        y, _ = lstm(x)
    assert y.requires_grad
    return sum(found.values())


def peak() -> int:
    """The peak resident memory of this process, in bytes.

    getrusage's value does not do: it starts from the peak of the parent process.
    """
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def train_long(recompute: str) -> None:
    """Trains one window of 100,000 steps; prints the growth of memory in bytes, and the loss."""
    _, warm = training((50, *LONG[1:]), recompute)
    warm()  # torch allocates buffers in its first update
    model, update = training(LONG, recompute)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    before = resident()
    loss = update()
    optimizer.step()
    print(json.dumps({"bytes": peak() - before, "loss": float(loss)}))


def measure(quick: bool) -> dict[str, list[dict[str, object]]]:
    rows: dict[str, list[dict[str, object]]] = {"shapes": [], "long": []}
    shapes = [(20, 4, 8, 16)] if quick else SHAPES
    cases = [(shape, torch.float32) for shape in shapes]
    cases += [(shape, torch.bfloat16) for shape in ([] if quick else NARROW)]
    rates = {dtype: flop_rate(dtype) for _, dtype in cases}
    for shape, dtype in tqdm(cases, desc="time, bytes kept, error", unit="shape"):
        candidates = [Candidate(mode, training(shape, mode, dtype)[1]) for mode in MODES]
        times = [timing.median for timing in alternating(candidates, 0.2 if quick else 8.0)]
        sizes = [kept(shape, mode, dtype) for mode in MODES]
        truth = gradients(shape, "none", torch.float64)
        errors = [error(gradients(shape, mode, dtype), truth) for mode in MODES]
        T, B, inputs, hidden = shape
        again = Shape(T, B, inputs, hidden, 1).operations(train=False) / rates[dtype]
        for mode, seconds, size, off in zip(MODES, times, sizes, errors, strict=True):
            rows["shapes"].append(
                {
                    "shape": shape,
                    "dtype": str(dtype).removeprefix("torch."),
                    "recompute": mode,
                    "ms": 1e3 * seconds,
                    "time": seconds / times[0],
                    "at least": 1 + SHARES[mode] * again / times[0],
                    "MiB": size / MiB,
                    "memory": size / sizes[0],
                    "error": off,
                }
            )
    for mode in tqdm(() if quick else MODES, desc="100,000 steps", unit="process"):
        command = [sys.executable, "-m", "benchmarks.studies.recompute", "--long", mode]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows["long"].append({"recompute": mode, **json.loads(out)})
    return rows


def report(rows: dict[str, list[dict[str, object]]]) -> str:
    lines = [
        "T, B, I, H            dtype     recompute      time  of none  at least      kept"
        "  of none    error"
    ]
    for r in rows["shapes"]:
        shape = ", ".join(map(str, r["shape"]))  # type: ignore[call-overload]
        lines.append(
            f"{shape:22}{r['dtype']:10}{r['recompute']:10}{r['ms']:6.1f} ms{r['time']:8.2f}x"
            f"{r['at least']:9.2f}x{r['MiB']:6.1f} MiB{r['memory']:8.2f}x{r['error']:9.1e}"
        )
    if rows["long"]:
        lines += ["", f"one window of {LONG[0]:,} steps, B = 4, I = 8, H = 128, float32:"]
    for r in rows["long"]:
        lines.append(f"{r['recompute']:10}{int(r['bytes']) / MiB:8.0f} MiB")  # type: ignore[call-overload]
    gates = [r for r in rows["shapes"] if r["recompute"] == "gates"]
    targets: list[tuple[str, float, float]] = [
        ("gates: kept, of none, worst", 0.5, max(float(r["memory"]) for r in gates)),  # type: ignore[arg-type]
        ("gates: time, of none, worst", 1.25, max(float(r["time"]) for r in gates)),  # type: ignore[arg-type]
    ]
    segments = [r for r in rows["long"] if r["recompute"] == "segments"]
    targets += [
        (f"segments: MiB for {LONG[0]:,} steps", LIMIT, int(r["bytes"]) / MiB)  # type: ignore[call-overload]
        for r in segments
    ]
    lines += ["", f"{'target':40}{'at most':>10}{'got':>10}"]
    lines += [
        f"{name:40}{goal:10.4g}{got:10.4g}  {'met' if got <= goal else 'MISSED'}"
        for name, goal, got in targets
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny shape, and no long window")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write recompute.json and .txt there"
    )
    parser.add_argument("--long", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.long:
        train_long(options.long)
        return
    rows = measure(options.quick)
    text = report(rows)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        contents = {"machine": description(), **rows}
        (options.out / "recompute.json").write_text(json.dumps(contents, indent=1) + "\n")
        (options.out / "recompute.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
