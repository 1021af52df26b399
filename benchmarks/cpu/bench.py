"""Times this library on the CPU against nn.LSTM, ONNX Runtime and OpenVINO.

The candidates of a shape take turns in one process, after a check that their results agree. The
table gives medians, spreads and ratios, losing shapes first. Milliseconds depend on the machine and
the moment; only ratios can be compared. The report names peers that are not installed;
requirements/peers.txt lists them.

    python -m benchmarks.cpu.bench [--quick] [--out build/bench] [--name cpu] [--seconds 1]
                                   [--passes 1] [--only step,infer,train,resets]
                                   [--dtypes float32,bfloat16]
                                   [--shapes rollouts | --shapes T,B,I,H,L ...]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import shapes
from benchmarks.cpu import feature_cost, machine, peers, report, resets, weight_read_floor
from benchmarks.cpu.plot import draw, panels, subject
from benchmarks.cpu.report import KINDS, FeatureCost, Row
from benchmarks.cpu.timing import SLOW, Candidate, interleaved_turns, of_turns
from benchmarks.shapes import Shape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
# Loose: the check only separates another computation from rounding.
# tests/project/test_benchmark_shapes.py is strict.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1}


def flat(result: Any) -> list[Tensor]:
    """The results of a call: the output, and in training the weights' gradients."""
    output, grads = result if isinstance(result, tuple) else (result, [])
    return [torch.as_tensor(output).detach(), *grads]


def wrong(candidate: Candidate, expected: list[Any], dtype: torch.dtype) -> str:
    """The fault in the results of the first calls, or ""; stores the first call's time."""
    with candidate.context():
        for truth in expected:
            begin = time.perf_counter()
            result = candidate.run()
            candidate.first = candidate.first or time.perf_counter() - begin
            for got, want in zip(flat(result), flat(truth), strict=True):
                error = (got.reshape(want.shape).double() - want.double()).norm()
                if not error <= TOLERANCE[dtype] * want.norm():  # NaN fails too
                    return f"computes something else: norm {want.norm():.1e}, error {error:.1e}"
            if candidate.first > SLOW:
                break
    return ""


def check(
    candidates: list[Candidate], expected: list[Any], dtype: torch.dtype
) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates, and the faults of peers whose results differ; a fault of ours raises.

    A peer with a fault is timed all the same: leaving it out would flatter us.
    """
    faults = {candidate.name: wrong(candidate, expected, dtype) for candidate in candidates}
    for name, fault in faults.items():
        if fault and name.startswith(peers.OURS):
            raise RuntimeError(f"{name} {fault}")
    return candidates, {name: fault for name, fault in faults.items() if fault}


def problem(shape: Shape, dtype: torch.dtype) -> tuple[nn.LSTM, Tensor, nn.LSTM, Tensor]:
    """An nn.LSTM and its input; then both in float32 or wider, for the expected results."""
    torch.manual_seed(0)
    T, B, I, H, layers = shape  # noqa: E741
    lstm = nn.LSTM(I, H, layers, dtype=dtype)
    x = torch.randn(T, B, I, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    return lstm, x, copy.deepcopy(lstm).to(wide), x.to(wide)


def candidates_of(
    kind: str, shape: Shape, dtype: torch.dtype
) -> tuple[list[Candidate], dict[str, str]]:
    """The checked candidates; and the reason for each missing or faulty peer."""
    lstm, x, exact, exact_x = problem(shape, dtype)
    if kind in ("step", "infer"):
        candidates, absent = peers.inference(lstm.eval(), x, shape)
        with torch.inference_mode():
            first, states = exact(exact_x)
            _, faults = check(candidates, [first, exact(exact_x, states)[0]], dtype)
        if kind == "step" and shape.B == 1:
            try:
                candidates.append(weight_read_floor.candidate(lstm, x, candidates[0].context))
            except (OSError, RuntimeError) as error:
                absent[weight_read_floor.NAME] = f"does not compile: {error}"
        return candidates, absent | faults
    grad = torch.randn(shape.T, shape.B, shape.H, dtype=dtype)
    exact_grad = grad.to(exact_x.dtype)
    if kind == "train":
        candidates = peers.training(lstm, x, grad)
        expected = peers.train_step(exact, lambda: exact(exact_x)[0], exact_grad)
        return check(candidates, [expected], dtype)
    mask = resets.random_resets(shape)
    candidates = resets.training(lstm, x, grad, mask)
    expected = peers.train_step(
        exact, lambda: resets.step_by_step(exact, exact_x, mask), exact_grad
    )
    _, faults = check([c for c in candidates if c.name != resets.NO_RESETS], [expected], dtype)
    return candidates, faults


def costs(kind: str, shape: Shape, name: str, seconds: float) -> list[FeatureCost]:
    """The costs of features that only this library has, against the same call without them."""
    lstm, x, _, _ = problem(shape, DTYPES[name])
    if kind == "step":
        return [feature_cost.empty_call(lstm, x, shape, name, seconds)]
    if kind == "infer":
        found = feature_cost.inference(lstm, x, shape, name, seconds)
        return found + feature_cost.both_directions(x, shape, name, seconds)
    grad = torch.randn(shape.T, shape.B, shape.H, dtype=x.dtype)
    return feature_cost.training(lstm, x, grad, shape, name, seconds)


def choices(text: str, known: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    unknown = set(chosen) - set(known)
    if unknown:
        raise argparse.ArgumentTypeError(f"{sorted(unknown)} not among {','.join(known)}")
    return chosen


def listed(text: str) -> list[Shape]:
    """The shapes of a list in shapes.py, or one shape from five numbers."""
    if text == "rollouts":
        return shapes.ROLLOUTS
    numbers = text.split(",")
    if len(numbers) != 5 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise argparse.ArgumentTypeError(f"expected rollouts or T,B,I,H,L, got {text!r}")
    return [Shape(*map(int, numbers))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few small shapes")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--name", default="cpu", help="name of the files")
    parser.add_argument("--seconds", type=float, help="for each row; 1, or 0.1 with --quick")
    parser.add_argument("--passes", type=int, default=1, help="passes over all rows, minutes apart")
    parser.add_argument("--only", type=lambda text: choices(text, KINDS), default=list(KINDS))
    parser.add_argument(
        "--dtypes",
        type=lambda text: choices(text, tuple(DTYPES)),
        default=["float32", "bfloat16"],
    )
    parser.add_argument(
        "--shapes",
        type=listed,
        nargs="+",
        metavar="T,B,I,H,L",
        help="time these shapes instead, without targets and feature costs; or rollouts",
    )
    options = parser.parse_args()
    seconds = options.seconds or (0.1 if options.quick else 1.0)
    sequences = shapes.QUICK if options.quick else shapes.SHAPES
    windows = shapes.QUICK_RESETS if options.quick else shapes.RESETS
    if options.shapes:
        sequences, windows = [shape for found in options.shapes for shape in found], []

    by_kind = {
        "step": [shape for shape in sequences if shape.T == 1],
        "infer": [shape for shape in sequences if shape.T > 1],
        "train": sequences,
        "resets": windows,
    }
    work = [(k, name, s) for name in options.dtypes for k in options.only for s in by_kind[k]]
    if not work:
        parser.error("no shape has a kind from --only: step needs T = 1, infer needs T > 1")

    # Setting the flags of oneDNN warns about a missing GPU.
    warnings.filterwarnings("ignore", "TF32 acceleration")
    about = machine.description()
    rated = list(dict.fromkeys(["float32", *options.dtypes]))  # cells are in float32 in any case
    peaks = [machine.peaks(rated)]
    print(json.dumps(about, indent=1))

    turns: dict[Any, dict[str, list[list[float]]]] = {}
    notes: dict[Any, tuple[list[float], dict[str, str]]] = {}
    for row in (progress := tqdm(work * options.passes, desc="timing", unit="shape")):
        kind, name, shape = row
        progress.set_postfix_str(f"{kind} {name} {shape}")
        candidates, absent = candidates_of(kind, shape, DTYPES[name])
        others = machine.Others()
        for candidate, found in zip(
            candidates, interleaved_turns(candidates, seconds), strict=True
        ):
            turns.setdefault(row, {}).setdefault(candidate.name, []).extend(found)
        notes.setdefault(row, ([], absent))[0].append(others.share())
    peaks.append(machine.peaks(rated))
    reads, flops = machine.fastest(peaks)
    about["peak GFLOP/s"] = {name: round(rate / 1e9, 1) for name, rate in flops.items()}
    about["peak GB/s by KiB read"] = {s >> 10: round(rate / 1e9, 1) for s, rate in reads.items()}
    rows = []
    for row in work:
        kind, name, shape = row
        times = {candidate: of_turns(taken) for candidate, taken in turns[row].items()}
        training = kind in ("train", "resets")
        peak = machine.floor(shape, training, name, flops, reads)
        shares, absent = notes[row]
        rows.append(Row(kind, name, shape, times, *peak, sum(shares) / len(shares), absent))
    alone: dict[str, list[Shape]] = {
        "step": shapes.STEP,
        "infer": shapes.QUICK_FEATURE_COST if options.quick else shapes.FEATURE_COST,
        "resets": windows,
    }
    if options.shapes:
        alone = {}
    measured = [
        cost
        for name in options.dtypes
        for kind in options.only
        for shape in alone.get(kind, [])
        for cost in costs(kind, shape, name, seconds)
    ]

    goals = [] if options.shapes else report.targets(rows)
    with redirect_stdout(StringIO()) as text:
        report.print_rows(rows)
        if measured:
            report.print_feature_costs(measured)
        report.print_summary(rows)
        if goals:
            report.print_targets(goals)
        report.print_absent(rows)
    print(text.getvalue())

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.name}.json"
    path.with_suffix(".txt").write_text(text.getvalue().lstrip())
    contents = {
        "machine": about,
        "targets": [
            {"target": t.text, "goal": t.goal, "got": t.got, "verdict": t.verdict} for t in goals
        ],
        "extras": [cost.json() for cost in measured],
        "rows": [row.json() for row in sorted(rows, key=lambda row: row.ratio)],
    }
    path.write_text(json.dumps(contents, indent=1) + "\n")
    draw(panels(rows), subject(about), path.with_suffix(".png"))
    print(f"\nwritten: {path}, .txt and .png beside it")


if __name__ == "__main__":
    main()
