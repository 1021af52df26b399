"""Counts what the tests ran in the emulator, for the summary at their end (tests/conftest.py)."""

from __future__ import annotations

# Kernel (with its type and variant), call, and order of threads.
launches: set[tuple[str, str, int]] = set()
# Whether each mutant was noticed.
mutants: list[bool] = []


def summary() -> str:
    """One line, or an empty text if nothing ran."""
    kernels = {name for name, _, _ in launches}
    cases = {(name, case) for name, case, _ in launches}
    parts = []
    if launches:
        parts.append(f"{len(kernels)} kernels, {len(cases)} cases, {len(launches)} schedules")
    if mutants:
        parts.append(f"{sum(mutants)} of {len(mutants)} mutants noticed")
    return ", ".join(parts)
