"""Times ways of computing that an environment variable chooses, once in a process."""

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

REST = 0.02  # seconds in which the threads of the process before fall asleep


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
    """Answers each number of a row from standard input with what `measure` returns of it."""
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), flush=True)


def in_turns(
    script: str, variable: str, ways: Sequence[str], rows: int, rounds: int
) -> dict[str, list[list[Any]]]:
    """What `script serve` says of each row, with the variable set to each way, turn about.

    A process for each way lives all the while: a row's turns follow each other, so that they meet
    the same machine. Returns for each way, row and round; "auto" leaves the variable unset.
    """
    workers = {}
    for way in ways:
        env = {k: v for k, v in os.environ.items() if k != variable}
        env |= {} if way == "auto" else {variable: way}
        pipe, command = subprocess.PIPE, [sys.executable, script, "serve"]
        workers[way] = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)
    found: dict[str, list[list[Any]]] = {way: [] for way in ways}
    for row in tqdm(range(rows), desc="timing", unit="row"):
        for way in ways:
            found[way].append([])
        for _ in range(rounds):
            for way, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                print(row, file=worker.stdin, flush=True)
                answer = worker.stdout.readline()
                if not answer:
                    raise RuntimeError(f"{script} with {variable}={way} ended early")
                found[way][row].append(json.loads(answer))
                time.sleep(REST)
    for worker in workers.values():
        worker.communicate()
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(over, under, strict=True))
