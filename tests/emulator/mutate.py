"""Checks that the tests of a kernel notice if one of its synchronizations is missing.

    python tests/emulator/mutate.py csrc/cuda/kernel.h -- python tests/emulator/smoke_kernels.py

In a copy of the project, each barrier, wait and flag in the given files gets a switch that removes
or weakens it. The copy is compiled once, then the command runs with one switch after the other. It
prints which of these mutants survive: there the tests see too little, or the kernel does too much.
If the latter is intended, the line says so:

    block_barrier();  // not needed for correctness: <why>
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from emulator import build

EXEMPT = "// not needed for correctness:"
NOTHING = "(void)0"
# The replacements of each call, tried in turn. {}: its arguments.
WEAKER = {
    "block_barrier": [NOTHING, "warp_barrier()"],
    "warp_barrier": [NOTHING],
    "cluster_arrive": [NOTHING],
    "cluster_wait": [NOTHING],
    "copy_async_commit": [NOTHING],
    "copy_async_wait": [NOTHING],
    "load_acquire": ["mutant::load_relaxed{}"],
    "store_release": ["mutant::store_relaxed{}"],
    "add_release": ["mutant::add_relaxed{}"],
    # Helpers of the kernels, made of the above: mutated at each call.
    "cluster_barrier": [NOTHING, "block_barrier()"],
    "wait_for_all": [NOTHING, "block_barrier()"],
}
CALL = re.compile(
    r"(?<![\w:])(?<!void )(?:\w*::)*"  # with its namespace; not where it is defined
    rf"(?P<name>{'|'.join(WEAKER)})(?:\s*<[^<>;()]*>)?\s*(?=\()"
)
SWITCH = "EMULATOR_MUTANT"  # the number of the mutant that a process runs, for machine.cpp
# The files that a test may need, and objects that are up to date.
COPIED = ("csrc", "stateful_lstm", "tests", "pyproject.toml", "build/emulator")
LONGEST = 300  # seconds: a mutant may wait forever


@dataclass(frozen=True)
class Mutant:
    number: int
    file: Path
    line: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old} -> {self.new}"


def switched(file: Path, text: str, first: int = 1) -> tuple[str, list[Mutant]]:
    """The file's text with a switch at each call, and the mutants, numbered from `first`."""
    lines, code = text.splitlines(), without_comments(text)
    pieces: list[str] = []
    mutants: list[Mutant] = []
    done = 0
    for call in CALL.finditer(code):
        line = text.count("\n", 0, call.start()) + 1
        if EXEMPT in lines[line - 1]:
            continue
        end = closing(code, call.end()) + 1
        whole, arguments = text[call.start() : end], text[call.end() : end]
        choice = ""
        for weaker in WEAKER[call["name"]]:
            new = weaker.format(arguments)
            mutants.append(Mutant(first + len(mutants), file, line, whole, new))
            qualified = new if new == NOTHING else f"::stateful_lstm::cuda::{new}"
            choice += f"::stateful_lstm::emulator::is_mutant({mutants[-1].number}) ? {qualified} : "
        pieces += [text[done : call.start()], f"({choice}{whole})"]
        done = end
    return "".join([*pieces, text[done:]]), mutants


def without_comments(text: str) -> str:
    """The text with blanks for comments, so that positions stay the same."""
    comment = r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/'
    return re.sub(comment, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)


def closing(code: str, at: int) -> int:
    """The position at which the parenthesis that opens at `at` closes."""
    depth = 0
    for place in range(at, len(code)):
        depth += {"(": 1, ")": -1}.get(code[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"not closed: {code[at : at + 40]}")


def run(
    files: Sequence[Path],
    command: Sequence[str],
    wanted: Callable[[Mutant], bool] = lambda mutant: True,
) -> list[tuple[Mutant, str]]:
    """The wanted mutants, each with the fault that the command found; empty if it survives."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            copy(build.ROOT / name, tree / name)
        mutants: list[Mutant] = []
        for file in files:
            file = file.resolve().relative_to(build.ROOT)
            text, more = switched(file, (tree / file).read_text(), len(mutants) + 1)
            (tree / file).write_text(text)
            mutants += more
        if fault := fault_of(
            0, command, tree
        ):  # this also compiles, so the mutants can run in parallel
            raise RuntimeError(f"the command fails in a copy without a mutant: {fault}")
        mutants = [mutant for mutant in mutants if wanted(mutant)]
        results = []
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            faults = pool.map(lambda mutant: fault_of(mutant.number, command, tree), mutants)
            for mutant, fault in zip(mutants, faults, strict=True):
                print("noticed " if fault else "SURVIVES", mutant, f" ({fault})" if fault else "")
                results.append((mutant, fault))
    return results


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy2(source, target)


def fault_of(number: int, command: Sequence[str], tree: Path) -> str:
    """The fault that the command finds in a mutant, or an empty text."""
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, SWITCH: str(number)},
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return f"no end in {LONGEST} s"
    said = done.stdout + done.stderr
    if build.DOES_NOT_BUILD in said:
        raise RuntimeError(f"a mutant does not compile: {said}")
    if done.returncode == 0:
        return ""
    error = re.search(r"^\w*Error\b.*|(?<=WARNING: )ThreadSanitizer: [^(]*", said, re.M)
    return error[0].strip() if error else f"status {done.returncode}"


def main() -> None:
    if "--" not in sys.argv:
        sys.exit(__doc__)
    at = sys.argv.index("--")
    results = run([Path(name) for name in sys.argv[1:at]], sys.argv[at + 1 :])
    survivors = [mutant for mutant, fault in results if not fault]
    print(f"{len(results)} mutants, {len(survivors)} survive")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
