"""Times candidates in turns, on a GPU by its own events, on a CPU by the clock.

A turn is an untimed call and then some samples; a sample is so many calls that the events around
them are negligible. If the host submits work more slowly than the device runs it, that time counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.cpu.timing import Candidate, Timing, summary

SAMPLE = 1e-3  # seconds of calls between two events
SAMPLES = 5  # in a turn
ROUNDS = 3  # at least
SLOW = 2.0  # seconds of a call that is timed once


def seconds_a_call(run: Callable[[], Any], calls: int, device: torch.device) -> float:
    if device.type == "cpu":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3 / calls


def interleaved(
    candidates: Sequence[Candidate], seconds: float, device: torch.device
) -> list[Timing]:
    """Times candidates in turns for the given seconds, at least ROUNDS turns; the order rotates."""
    samples: list[list[float]] = [[] for _ in candidates]
    calls = [0] * len(candidates)
    end, done = time.perf_counter() + seconds, 0
    while done < ROUNDS or time.perf_counter() < end:
        for j in range(len(candidates)):
            k = (done + j) % len(candidates)
            run, taken = candidates[k].run, samples[k]
            if taken and taken[0] > SLOW:
                continue
            with candidates[k].context():
                estimate = seconds_a_call(run, 1, device)
                if estimate > SLOW:
                    taken.append(estimate)
                    continue
                if not calls[k]:  # the very first call includes setup
                    estimate = min(estimate, seconds_a_call(run, 1, device))
                    calls[k] = max(1, round(SAMPLE / max(estimate, 1e-7)))
                count = SAMPLES if estimate < 0.05 else 1
                taken += [seconds_a_call(run, calls[k], device) for _ in range(count)]
        done += 1
        if all(taken[0] > SLOW for taken in samples):
            break
    return [summary(taken) for taken in samples]


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Allows TF32 in products and in cuDNN, or in neither; torch's default is cuDNN only."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A CUDA graph of run(), after torch's warm-up calls; and the result of run()."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph, out


def progress(text: str) -> None:
    """Prints progress: on a terminal in one line that is overwritten, in a log line by line."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{text:78}", end=end, file=sys.stderr, flush=True)
