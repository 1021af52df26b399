"""Times candidates in turns, each turn a short burst of calls on a quiet machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple

BURST = 0.015  # seconds of timed calls in a turn
WARM = 0.002  # seconds of untimed calls before them
BATCH = 20e-6  # seconds: shorter calls are timed in groups
SLOW = 2.0  # seconds: a longer call is not repeated
ROUNDS = 3  # the fewest rounds


@dataclass
class Candidate:
    """A call to time: run() makes one call and returns its results."""

    name: str
    run: Callable[[], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext  # entered once a turn
    first: float = 0.0  # seconds of the first call, if known


class Timing(NamedTuple):
    """Seconds per call: the median and the quartiles; and the number of samples."""

    median: float
    low: float
    high: float
    samples: int
    turns: tuple[float, ...] = ()  # the median of each turn

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    def over(self, other: Timing) -> float:
        """This time divided by the other: the median of the rounds' ratios.

        The machine's speed changes from minute to minute, by a different amount for each candidate;
        a round is short, so both run at the same speed. With too few rounds, or with a round that
        one candidate missed, the result is the ratio of the medians.
        """
        if len(self.turns) != len(other.turns) or len(self.turns) < ROUNDS:
            return self.median / other.median
        return median(a / b for a, b in zip(self.turns, other.turns, strict=True))


def settle() -> None:
    """Waits until the threads of the last call sleep, at most 0.1 s.

    Thread pools keep spinning for a while (OpenMP 10 ms, ONNX Runtime 40 ms) and would take cores
    from the next candidate. The system counts processor time in steps of up to 4 ms.
    """
    for _ in range(12):
        before = time.process_time()
        time.sleep(0.008)
        if time.process_time() - before < 0.002:
            return


def calls_take(run: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(calls):
        run()
    return (time.perf_counter_ns() - begin) * 1e-9 / calls


def burst(candidate: Candidate) -> list[float]:
    """One turn: seconds per call, for each sample."""
    settle()
    with candidate.context():
        samples: list[float] = []
        begin, estimate = time.perf_counter(), candidate.first
        while estimate < 0.1 and time.perf_counter() - begin < WARM:
            estimate = calls_take(candidate.run, 1)
        calls = max(1, round(BATCH / estimate)) if estimate else 1
        end = time.perf_counter() + BURST
        while not samples or time.perf_counter() < end:
            samples.append(calls_take(candidate.run, calls))
    candidate.first = min(candidate.first or samples[0], samples[0])  # the first call also set up
    return samples


def alternating(candidates: Sequence[Candidate], seconds: float) -> list[Timing]:
    """Alternates candidates call by call, all in the context of the first.

    For candidates of one library, whose threads do not disturb each other.
    """
    settle()
    samples: list[list[float]] = [[] for _ in candidates]
    with candidates[0].context():
        estimates = [min(calls_take(c.run, 1) for _ in range(3)) for c in candidates]
        calls = [max(1, round(BATCH / estimate)) for estimate in estimates]
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(samples[0]) < 5:
            for taken, candidate, n in zip(samples, candidates, calls, strict=True):
                taken.append(calls_take(candidate.run, n))
    return [summary(taken) for taken in samples]


def interleaved(candidates: Sequence[Candidate], seconds: float) -> list[Timing]:
    """The times of candidates that take turns."""
    return [of_turns(turns) for turns in interleaved_turns(candidates, seconds)]


def interleaved_turns(candidates: Sequence[Candidate], seconds: float) -> list[list[list[float]]]:
    """Runs candidates in turns for ``seconds``, and at least ROUNDS rounds; the order rotates.

    Returns the samples of each candidate's turns. Slow calls get fewer rounds: two above a second;
    above SLOW the first call is the only sample.
    """
    turns: list[list[list[float]]] = [[[c.first]] if c.first > SLOW else [] for c in candidates]

    def lacks(k: int) -> bool:
        slow = candidates[k].first
        return len(turns[k]) < (1 if slow > SLOW else 2 if slow > 1 else ROUNDS)

    end, start = time.perf_counter() + seconds, 0
    while (more := time.perf_counter() < end) or any(map(lacks, range(len(candidates)))):
        for k in [(start + j) % len(candidates) for j in range(len(candidates))]:
            if lacks(k) or (more and candidates[k].first < 1):
                turns[k].append(burst(candidates[k]))
        start += 1
    return turns


def of_turns(turns: list[list[float]]) -> Timing:
    """The summary of all samples, with the median of each turn for ratios by round."""
    samples = [taken for turn in turns for taken in turn]
    return summary(samples)._replace(turns=tuple(map(median, turns)))


def summary(samples: list[float]) -> Timing:
    if len(samples) == 1:
        return Timing(samples[0], samples[0], samples[0], 1)
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return Timing(median(samples), low, high, len(samples))
