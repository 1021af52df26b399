"""Times the variants of a computation that an environment variable selects once per process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from tqdm import tqdm

REST = 0.02  # seconds: the threads of the last process fall asleep


def timed(run: Callable[[], object], seconds: float = 0.2) -> float:
    """Median seconds of a run."""
    run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return median(times)


def serve(measure: Callable[[int], Any]) -> None:
    """Reads row numbers from standard input, and prints `measure` of each as JSON."""
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), flush=True)


def in_turns(
    module: str, variable: str, variants: Sequence[str], rows: int, rounds: int
) -> dict[str, list[list[Any]]]:
    """The answers of `python -m module serve` to each row, by variant, row and round.

    Each variant has a process with the variable set to it; "auto" leaves the variable unset. The
    processes take turns at a row, so that all variants run at the same speed of the machine.
    """
    workers = {}
    for variant in variants:
        env = {k: v for k, v in os.environ.items() if k != variable}
        env |= {} if variant == "auto" else {variable: variant}
        pipe, command = subprocess.PIPE, [sys.executable, "-m", module, "serve"]
        workers[variant] = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
    found: dict[str, list[list[Any]]] = {variant: [] for variant in variants}
    for row in tqdm(range(rows), desc="timing", unit="row"):
        for variant in variants:
            found[variant].append([])
        for _ in range(rounds):
            for variant, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                print(row, file=worker.stdin, flush=True)
                answer = worker.stdout.readline()
                if not answer:
                    raise RuntimeError(f"{module} with {variable}={variant} ended early")
                found[variant][row].append(json.loads(answer))
                time.sleep(REST)
    for worker in workers.values():
        worker.communicate()
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(over, under, strict=True))
