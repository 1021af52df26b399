"""Every Python block of the documents runs, and every relative link leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^([ \t]*)```([^\n]*)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def name(path):
    return path.relative_to(ROOT).as_posix()


def python_blocks():
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for match in FENCE.finditer(text):
            if match[2].strip() == "python":
                line = text.count("\n", 0, match.start()) + 2
                yield pytest.param(path, line, match[3], id=f"{name(path)}:{line}")


def prose(path):
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path):
    """The headings of a document, as GitHub spells them in links."""
    found = set()
    for heading in re.findall(r"^#+[ \t]+(.*?)[ \t#]*$", prose(path), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


def test_there_are_documents_with_examples():
    assert DOCUMENTS[0].exists()
    assert any(block.values[0] == DOCUMENTS[0] for block in python_blocks())


@pytest.mark.parametrize(("path", "line", "source"), list(python_blocks()))
def test_the_example_runs(path, line, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile("\n" * (line - 1) + dedent(source), str(path), "exec")
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    broken = []
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file).resolve() if file else path
        found = goal.exists() and goal.is_relative_to(ROOT)
        if found and anchor and goal.suffix == ".md":
            found = anchor.lower() in anchors(goal)
        if not found:
            broken.append(target)
    assert not broken


def test_importing_needs_no_optional_package():
    """What the README promises to work after a bare install."""
    code = (
        "import sys\n"
        "for absent in ('onnx', 'onnxruntime', 'keras', 'matplotlib', 'tqdm'):\n"
        "    sys.modules[absent] = None\n"
        "import stateful_lstm, stateful_lstm.interop\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)
