"""Whether the tests of a kernel would notice if one of its synchronisations were missing.

    python tests/emulator/mutate.py csrc/cuda/kernel.h -- python -m pytest -q tests/test_kernel.py

For each barrier, wait and flag in the given files, runs the command in a copy of the project where
that one is removed, or made too weak. Tells which of these mutants survive: there the tests see too
little, or the kernel does too much. If the latter is meant, the line says so:

    block_barrier();  // not needed for correctness: <why>
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from emulator import build

EXEMPT = "// not needed for correctness:"
REMOVED = ("block_barrier", "warp_barrier", "cluster_arrive", "cluster_wait")
REMOVED_COPIES = ("copy_async_commit", r"copy_async_wait\s*<[^<>;]*>")
WEAKER = {
    "load_acquire": "load_relaxed",
    "store_release": "store_relaxed",
    "add_release": "add_relaxed",
}
CALL = re.compile(
    r"(?<![\w:])(?:\w*::)*"  # with its namespace
    rf"(?:(?P<removed>(?:{'|'.join(REMOVED + REMOVED_COPIES)})\s*\(\s*\))"
    rf"|(?P<weaker>{'|'.join(WEAKER)})\s*\()"
)
# What a test may need, and the objects that need not be compiled again.
COPIED = ("csrc", "stateful_lstm", "tests", "pyproject.toml", "build/emulator")
LONGEST = 600  # seconds: a mutant may wait for ever


@dataclass
class Mutant:
    file: Path
    line: int
    old: str
    new: str
    whole: str  # the file's text with it

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old} -> {self.new}"


def mutants_of(file: Path, text: str) -> list[Mutant]:
    lines = text.splitlines()
    found = []
    for call in CALL.finditer(without_comments(text)):
        line = text.count("\n", 0, call.start()) + 1
        if EXEMPT in lines[line - 1]:
            continue
        weaker = call["weaker"]
        new = f"::stateful_lstm::cuda::mutant::{WEAKER[weaker]}(" if weaker else "(void)0"
        whole = text[: call.start()] + new + text[call.end() :]
        found.append(Mutant(file, line, call[0], new, whole))
    return found


def without_comments(text: str) -> str:
    """The same with blanks in their place, so that all else stays where it is."""
    comment = r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/'
    return re.sub(comment, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)


def run(files: Sequence[Path], command: Sequence[str]) -> list[tuple[Mutant, bool]]:
    """All mutants, and whether each survives the command."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            copy(build.ROOT / name, tree / name)
        if not passes(command, tree):
            raise RuntimeError("the command fails in a copy of the project without a mutant")
        results = []
        for file in files:
            file = file.resolve().relative_to(build.ROOT)
            original = (tree / file).read_text()
            for mutant in mutants_of(file, original):
                (tree / file).write_text(mutant.whole)
                survives = passes(command, tree)
                print("SURVIVES" if survives else "noticed ", mutant, flush=True)
                results.append((mutant, survives))
            (tree / file).write_text(original)
    return results


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy2(source, target)


def passes(command: Sequence[str], tree: Path) -> bool:
    try:
        done = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return False
    said = done.stdout + done.stderr
    if build.DOES_NOT_BUILD in said:
        raise RuntimeError(f"this says nothing about the tests: {said}")
    return done.returncode == 0


def main() -> None:
    if "--" not in sys.argv:
        sys.exit(__doc__)
    at = sys.argv.index("--")
    results = run([Path(name) for name in sys.argv[1:at]], sys.argv[at + 1 :])
    survivors = [mutant for mutant, survives in results if survives]
    print(f"{len(results)} mutants, {len(survivors)} survive")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
