"""Python blocks of documents and docstrings run, links lead somewhere, figures are as drawn."""

import doctest
import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from docs_support import DOCUMENTS, FENCE, ROOT, name, python_blocks, run_block
from torch import nn

import stateful_lstm
from stateful_lstm import data, interop, training

NOT_RUN = {"", "{toctree}", "{eval-rst}"}  # shells, drawings, and what is for Sphinx
MODULES = (stateful_lstm, data, interop, training)
IN_DOCSTRINGS = {
    f"{module.__name__}.{public}": getattr(module, public)
    for module in MODULES
    for public in module.__all__
    if ">>>" in (getattr(module, public).__doc__ or "")
}
FIGURES = ROOT / "docs" / "figures"
SCRIPTS = sorted(FIGURES.glob("[!_]*.py"))
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


BLOCKS = [
    pytest.param(path, line, source, id=f"{name(path)}:{line}")
    for path, line, source in python_blocks()
]


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
    assert any(block.values[0] == DOCUMENTS[0] for block in BLOCKS)


@pytest.mark.parametrize(("path", "line", "source"), BLOCKS)
def test_the_example_runs(path, line, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block(path, line, source)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_no_block_gets_past_the_test_above(path):
    for match in FENCE.finditer(path.read_text(encoding="utf-8")):
        assert match[2].strip() in {"python", *NOT_RUN}
        assert match[2].strip() == "python" or "import " not in match[3]


class Stepwise(nn.Module):
    """A model whose states come in and go out, as examples of export have it."""

    def __init__(self):
        super().__init__()
        self.lstm = stateful_lstm.StatefulLSTM(3, 4, stateful=False)

    def forward(self, x, h_0, c_0):
        return self.lstm(x, (h_0, c_0))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("public", IN_DOCSTRINGS)
def test_the_example_of_a_docstring_runs(public, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waves = [torch.sin(torch.arange(n) * 0.3).reshape(-1, 1) for n in (40, 9)]
    given = {
        "model": Stepwise(),
        "x": torch.randn(5, 2, 3),
        "h_0": torch.zeros(1, 2, 4),
        "c_0": torch.zeros(1, 2, 4),
        "lstm": stateful_lstm.StatefulLSTM(3, 4),
        "windows": data.ContinuousBatches(waves, batch_size=2, window=8),
    }
    if public.endswith("Trainer"):
        given["model"] = stateful_lstm.StatefulLSTM(1, 6, proj_size=1)
    names = {name: value for module in MODULES for name, value in vars(module).items()}
    example = doctest.DocTestParser().get_doctest(
        IN_DOCSTRINGS[public].__doc__,
        {**names, "np": np, "nn": nn, "torch": torch, **given},
        public,
        None,
        None,
    )
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


def test_docstrings_have_examples():
    assert len(IN_DOCSTRINGS) >= 5


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


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_exist(path):
    """``make`` with a target of the Makefile or of make/, ``python`` with a file that is there."""
    text = path.read_text(encoding="utf-8")
    makefiles = [ROOT / "Makefile", *(ROOT / "make").glob("*.mk")]
    rules = "".join(path.read_text(encoding="utf-8") for path in makefiles)
    targets = set(re.findall(r"^([a-z-]+):", rules, re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    files = re.findall(r"(?:`|^)python3? ([\w/]+\.py)", text, re.MULTILINE)
    assert not [file for file in files if not (ROOT / file).exists()]


def test_importing_needs_no_optional_package():
    """What the README promises to work after a bare install."""
    code = (
        "import sys\n"
        "for absent in ('onnx', 'onnxruntime', 'keras', 'matplotlib', 'tqdm'):\n"
        "    sys.modules[absent] = None\n"
        "import stateful_lstm, stateful_lstm.interop\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All figures, redrawn by one process."""
    if not importlib.util.find_spec("matplotlib"):
        pytest.skip("matplotlib is not installed")
    folder = tmp_path_factory.mktemp("figures")
    code = (
        "import runpy, sys\n"
        "from pathlib import Path\n"
        "for script in map(Path, sys.argv[2:]):\n"
        "    draw = runpy.run_path(str(script))['draw']\n"
        "    draw(Path(sys.argv[1]) / script.with_suffix('.svg').name)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(FIGURES)])
    subprocess.run(
        [sys.executable, "-c", code, str(folder), *map(str, SCRIPTS)],
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return folder


def test_every_figure_has_a_script_and_a_page():
    figures = {path.stem for path in FIGURES.glob("*.svg")}
    assert figures == {path.stem for path in SCRIPTS}
    text = "".join(prose(path) for path in DOCUMENTS)
    assert figures == set(re.findall(r"\]\((?:\.\./)?figures/(\w+)\.svg\)", text))


@pytest.mark.sampled(most=2)
@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_the_figure_is_what_its_script_draws(script, drawn):
    old, new = (
        (folder / script.with_suffix(".svg").name).read_text(encoding="utf-8")
        for folder in (FIGURES, drawn)
    )

    def words(svg):
        return re.findall("<!-- (.*?) -->", svg)

    def version(svg):
        return re.findall("Matplotlib v[^,]*", svg)

    assert words(new)
    assert words(new) == words(old)
    if version(new) == version(old):  # another one may draw the same words in other curves
        assert new == old


def test_the_table_of_performance_is_that_of_the_results():
    if not importlib.util.find_spec("matplotlib"):
        pytest.skip("matplotlib is not installed")
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['table']())"
    command = [sys.executable, "-c", code, str(FIGURES / "performance.py")]
    env = {**os.environ, "PYTHONPATH": str(FIGURES)}
    table = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    assert table in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
