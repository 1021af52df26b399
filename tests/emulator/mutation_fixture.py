"""Checks the results of mutation_fixture.cpp, plainly and under ThreadSanitizer."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import build


def check(kind: str) -> None:
    library = build.build("mutation_fixture", [build.HERE / "mutation_fixture.cpp"], [], kind)
    reverse = ctypes.CDLL(str(library)).reverse
    count = 64
    x = (ctypes.c_float * count)(*range(count))
    for seed in range(8):
        y = (ctypes.c_float * count)()
        reverse(x, y, count, seed)
        assert list(y) == list(reversed(x)), (kind, seed)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        check("plain")
        build.build("mutation_fixture", [build.HERE / "mutation_fixture.cpp"], [], "tsan")
        command = [sys.executable, __file__, "tsan"]
        sys.exit(subprocess.run(command, env=build.environment("tsan"), check=False).returncode)
    check(sys.argv[1])
