"""The documents and their Python blocks. Needs only the standard library."""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^([ \t]*)```([^\n]*)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)


def name(path):
    return path.relative_to(ROOT).as_posix()


def python_blocks():
    """Yields (path, line, source) of each Python block."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for match in FENCE.finditer(text):
            if match[2].strip() == "python":
                yield path, text.count("\n", 0, match.start()) + 2, match[3]


def run_block(path, line, source):
    """Runs a block as its own program. Tracebacks name the lines of the document."""
    code = compile("\n" * (line - 1) + dedent(source), str(path), "exec")
    exec(code, {"__name__": "__main__"})
