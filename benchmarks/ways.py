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


def timed(run: Callable[[], object], seconds: float = 0.2) -> float:
    """Median seconds of a run."""
    run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return median(times)


def in_processes(script: str, variable: str, ways: Sequence[str], times: int) -> dict[str, Any]:
    """What `script measure` prints as JSON, with the variable set to each way, turn about.

    Returns a list for each way; "auto" leaves the variable unset.
    """
    runs: dict[str, list[Any]] = {way: [] for way in ways}
    for way in tqdm([*ways] * times, desc="timing", unit="process"):
        env = {k: v for k, v in os.environ.items() if k != variable}
        env |= {} if way == "auto" else {variable: way}
        command = [sys.executable, script, "measure"]
        out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
        runs[way].append(json.loads(out))
    return runs
