"""The API page has every public name, docstrings every argument, and the pages build."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stateful_lstm

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [stateful_lstm] + [
    importlib.import_module(f"stateful_lstm.{found.name}")
    for found in pkgutil.iter_modules(stateful_lstm.__path__)
    if found.ispkg
]
# Methods with plain names that are for other modules here, not for users.
INSIDE = {
    f"stateful_lstm.LSTMState.{name}"
    for name in (
        "fits",
        "finish",
        "mark_resizable",
        "mark_used",
        "move",
        "resizable",
        "select",
        "start",
    )
} | {
    f"stateful_lstm.StatefulLSTM.{name}"  # or of torch's own, whose pages tell of them
    for name in ("extra_repr", "check_forward_args", "get_expected_cell_size", "permute_hidden")
}


def public():
    """Name and object of all that a user may call."""
    for package in PACKAGES:
        for short in getattr(package, "__all__", ()):
            found, full = getattr(package, short), f"{package.__name__}.{short}"
            if inspect.ismodule(found):
                yield f"{full}.lstm", found.lstm  # stateful_lstm.reference
            else:
                yield full, found
            if not inspect.isclass(found):
                continue
            for name, member in vars(found).items():
                kinds = (classmethod, staticmethod, property)
                method = inspect.isfunction(member) or isinstance(member, kinds)
                if method and not name.startswith("_") and f"{full}.{name}" not in INSIDE:
                    yield f"{full}.{name}", getattr(found, name)


PUBLIC = dict(public())
CALLED = [name for name, found in PUBLIC.items() if callable(found)]


def section(doc, title):
    """The indented text below "Args:", "Returns:" or the like, or nothing."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", doc + "\n", re.MULTILINE)
    return found[1] if found else ""


def entries(text):
    """What is said of each name in a section."""
    return dict(re.findall(r"^    \*{0,2}(\w+): (.*(?:\n     .*)*)", text, re.MULTILINE))


def parameters(found):
    if inspect.isclass(found) and issubclass(found, Exception):
        return []
    if found is stateful_lstm.LSTMState:  # made by its layer
        return []
    return [name for name in inspect.signature(found).parameters if name != "self"]


def test_there_is_something_to_look_at():
    assert {"stateful_lstm.lstm", "stateful_lstm.StatefulLSTM.forward"} < PUBLIC.keys()
    assert {"stateful_lstm.data.Window.pad", "stateful_lstm.training.Trainer.fit"} < PUBLIC.keys()
    assert {"input_size", "recompute"} < entries(
        section(inspect.getdoc(stateful_lstm.StatefulLSTM), "Args")
    ).keys()


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.endswith("__version__")])
def test_it_says_what_it_is(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc is not None
    assert doc.split("\n")[0].endswith(".")


@pytest.mark.parametrize("name", CALLED)
def test_it_says_what_it_takes_and_returns(name):
    found = PUBLIC[name]
    doc = inspect.getdoc(found)
    if "The same arguments, results and errors as :func:" in doc:
        return
    said = entries(section(doc, "Args") + section(doc, "Attributes"))
    wanted = parameters(found)
    assert [parameter for parameter in wanted if parameter not in said] == []
    # "I." alone is the first line of a list for Sphinx, which then says nothing.
    assert [parameter for parameter in wanted if len(said[parameter].split()) < 2] == []
    if not inspect.isclass(found):
        returned = str(inspect.signature(found).return_annotation)
        assert returned.startswith(("None", "Iterator")) or section(doc, "Returns")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    for package in ("sphinx", "myst_parser", "furo"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: pip install -r requirements/docs.txt")
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done, folder


@pytest.mark.slow
def test_the_pages_build_without_a_warning(pages):
    done, folder = pages
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for source in (ROOT / "docs").glob("*.md"):
        assert (folder / source.with_suffix(".html").name).exists()


def test_every_public_name_is_on_the_page(pages):
    page = (pages[1] / "api.html").read_text(encoding="utf-8")
    there = set(re.findall(r'<dt class="sig[^>]* id="([\w.]+)"', page))
    assert sorted(PUBLIC.keys() - there) == []
