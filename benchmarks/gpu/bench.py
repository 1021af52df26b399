"""Times this library on a GPU against nn.LSTM (cuDNN), and FlashRNN and TorchRL where installed.

The candidates of a shape take turns in one process, timed by the device's events, after a check
that they compute the same. The table gives microseconds a step, losing shapes first. A peer that
fails is named and left out; a row in which this library fails is named, and the exit status is 1.

    python -m benchmarks.gpu.bench [--quick] [--only infer,train,step,loop,resets] [--seconds 0.3]
                             [--dtypes float32,tf32,float16,bfloat16] [--limit 1200] [--out DIR]

--device cpu runs the script itself on a machine without a GPU, with small shapes only.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu.peers import OURS
from benchmarks.cpu.resets import NO_RESETS
from benchmarks.cpu.timing import Candidate, Timing
from benchmarks.gpu import report, roofline
from benchmarks.gpu.candidates import MODES, TOLERANCE, NotInstalledError, Problem, makers
from benchmarks.gpu.report import GpuRow
from benchmarks.gpu.timing import interleaved, precision, progress
from benchmarks.shapes import Shape

PARTS = {  # kinds of rows, for --only
    "step": ["step", "graph"],
    "loop": ["loop", "loop train"],
    "resets": ["resets"],
    "infer": ["infer"],
    "train": ["train"],
}
GRID = [Shape(512, B, H, H, 1) for H in (128, 256, 512, 768, 1024, 2048) for B in (1, 16, 64, 256)]
STEPS = [Shape(1, B, H, H, 1) for H in (128, 512, 1024, 2048) for B in (1, 16, 256)]
LOOP = [Shape(512, 16, 128, 128, 1)]
RESETS = [Shape(512, 16, 256, 256, 1), Shape(512, 64, 512, 512, 1)]
QUICK = [Shape(16, 1, 64, 64, 1), Shape(16, 16, 128, 128, 1)]


def shapes(kind: str, quick: bool) -> list[Shape]:
    """The cheap rows first, so that a limit cuts off the expensive ones."""
    if kind in ("step", "graph"):
        chosen = [shape._replace(T=1) for shape in QUICK] if quick else STEPS
    elif kind in ("loop", "loop train"):
        chosen = QUICK[:1] if quick else LOOP
    elif quick:
        chosen = QUICK if kind != "resets" else QUICK[1:]
    else:
        chosen = RESETS if kind == "resets" else GRID
    return sorted(chosen, key=lambda shape: shape.operations(train=False))


def flat(result: Any) -> list[Tensor]:
    """The results of a call: the output, and in training the weights' gradients."""
    output, grads = result if isinstance(result, tuple) else (result, [])
    return [output.detach(), *grads]


def disagreement(got: list[Tensor], expected: list[Tensor], most: float) -> str | None:
    for k, (one, truth) in enumerate(zip(got, expected, strict=True)):
        off = (one.reshape(truth.shape).double() - truth.double()).norm() / truth.norm()
        if not off <= most:  # also if it is NaN
            what = "the output" if k == 0 else f"gradient {k - 1}"
            return f"it computes something else: {what} is off by {off:.1e} of its norm"
    return None


def checked(problem: Problem, kind: str) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates with the expected results; for the others, why they are left out."""
    expected = flat(problem.expected(kind))
    candidates, absent = [], {}
    for name, make in makers(problem, kind).items():
        try:
            candidate = make()
            with candidate.context():
                got = flat(candidate.run())
            wrong = None
            if name != NO_RESETS:
                wrong = disagreement(got, expected, TOLERANCE[problem.mode])
        except NotInstalledError as error:
            wrong = str(error)
        except Exception as error:  # whatever a peer may throw
            if name == OURS:
                raise
            wrong = one_line(error)
        if wrong and name == OURS:
            raise RuntimeError(wrong)
        if wrong:
            absent[name] = wrong
        else:
            candidates.append(candidate)
    return candidates, absent


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def measured(kind: str, mode: str, shape: Shape, seconds: float, device: torch.device) -> GpuRow:
    with precision(MODES[mode][1]):
        candidates, absent = checked(Problem(shape, mode, device), kind)
        times: list[Timing] = interleaved(candidates, seconds, device)
    named = {candidate.name: time for candidate, time in zip(candidates, times, strict=True)}
    return GpuRow(kind, mode, shape, named, absent=absent)


def broken(device: torch.device) -> bool:
    """Whether the device has stopped responding, as after a fault in a kernel."""
    gc.collect()
    if device.type == "cpu":
        return False
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError:
        return True
    return False


def choices(text: str, known: list[str]) -> list[str]:
    chosen = text.split(",")
    unknown = set(chosen) - set(known)
    if unknown:
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} not among {','.join(known)}")
    return chosen


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, known in (("--only", list(PARTS)), ("--dtypes", list(MODES))):
        parser.add_argument(name, type=partial(choices, known=known), default=known)
    parser.add_argument("--quick", action="store_true", help="few small shapes")
    parser.add_argument("--seconds", type=float, help="for each row; 0.3, or 0.05 with --quick")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds for all rows")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--out", type=Path, help="benchmarks/results; build/bench with --quick or on a CPU"
    )
    options = parser.parse_args()
    if options.device == "cpu" and not options.quick:
        parser.error("--device cpu is for trying the script: add --quick")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch has no GPU here; --device cpu --quick tries the script")
    return options


def main() -> None:
    options, begin = arguments(), time.perf_counter()
    device = torch.device("cpu") if options.device == "cpu" else torch.device("cuda", 0)
    seconds = options.seconds or (0.05 if options.quick else 0.3)
    root = Path(__file__).parents[1]
    trial = options.quick or device.type == "cpu"
    out = options.out or (root.parent / "build/bench" if trial else root / "results")
    about = report.description(device)
    path = out / f"{report.slug(about['device'])}.json"
    chip = roofline.read(root / "results" / report.microbench_file(about["device"]))

    kinds = [kind for part in options.only for kind in PARTS[part]]
    if device.type == "cpu":
        kinds = [kind for kind in kinds if kind != "graph"]
    work = [
        (kind, mode, shape)
        for kind in kinds
        for shape in shapes(kind, options.quick)
        for mode in options.dtypes
    ]
    rows: list[GpuRow] = []
    failed: list[str] = []
    reached = 0
    for reached, (kind, mode, shape) in enumerate(work, 1):
        what = f"{kind} {mode} {shape}"
        progress(f"{time.perf_counter() - begin:5.0f} s  {reached}/{len(work)}  {what}")
        try:
            rows.append(measured(kind, mode, shape, seconds, device))
            if chip is not None:
                report.give_floor(rows[-1], chip)
        except Exception as error:  # the other rows are still worth having
            failed.append(f"FAILED: {what}: {one_line(error)}")
        if broken(device):
            failed.append(f"FAILED: the device answers no more after {what}")
            break
        if time.perf_counter() - begin > options.limit:
            break
        if reached % 20 == 0:  # in case the run is stopped
            report.write(path, about, rows, failed, len(work) - reached)

    report.write(path, about, rows, failed, len(work) - reached)
    print(f"{about['device']}, torch {about['torch']}: {len(rows)} rows")
    print(report.draw(rows, about, path.with_suffix(".png")))
    print(f"written: {path}, all rows in the .txt beside it\n")
    losing = [row for row in report.by_ratio(rows) if row.comparable and row.ratio < 1]
    shown = losing or report.by_ratio(rows)
    print(f"Slower than the best peer in {len(losing)} rows", end="")
    print(f"; the first {min(len(shown), 40)} of {len(shown)}:")
    print("\n".join([report.HEADING, *(row.line() for row in shown[:40]), report.NOTES]))
    print("\n".join([*report.summary(rows), *report.left_out(rows)]))
    if reached < len(work):
        print(f"not reached: {len(work) - reached} of {len(work)} rows")
    if failed:
        print("\n".join(failed))
        sys.exit(1)


if __name__ == "__main__":
    main()
