"""Imports of the package run one way: backend, then the layer, the whole model, and its users."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "stateful_lstm"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
FOLDERS = {name.removesuffix(".__init__") for name in FILES if name.endswith(".__init__")}
# A module imports modules of its own level or of a lower level.
LEVELS = {"_version": 0, "backend": 1, "whole_model": 3, "data": 4, "training": 5, "interop": 5}
LAYER = 2  # module, state, functional, reference, info and any other file beside them
LIBRARY = "_C"  # the compiled library, which backend/operators.py imports
FRONT = 6  # __init__ and __main__, which nothing inside the package imports


def module_of(name):
    return f"{name}.__init__" if name in FOLDERS else name


def level(name):
    part = name.split(".")[1]
    return FRONT if part in ("__init__", "__main__") else LEVELS.get(part, LAYER)


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def nodes_of(body):
    """All nodes of a module, those in functions too, without those for type checkers."""
    for node in body:
        if is_type_checking(node):
            yield from nodes_of(node.orelse)
            continue
        yield node
        yield from nodes_of(ast.iter_child_nodes(node))


def imports(name, source):
    """The package's modules that a module imports, by the files they lie in."""
    found = set()
    home = name.split(".")[:-1]
    for node in nodes_of(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names if alias.name != LIBRARY]
            names = [each if each in FOLDERS or each in FILES else base for each in names]
        else:
            continue
        found |= {module_of(each) for each in names if each.split(".")[0] == PACKAGE}
    return found - {name}


IMPORTS = {name: imports(name, path.read_text(encoding="utf-8")) for name, path in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_nothing_above_it(name):
    assert IMPORTS[name] <= set(FILES)
    assert [each for each in sorted(IMPORTS[name]) if level(each) > level(name)] == []


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("__init__")])
def test_no_module_hides_an_import(name):
    words = {
        node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8")))
    }
    assert not words & {"import_module", "__import__"}


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1][::-1]))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from . import module", {"module"}),
        ("from .. import reference", {"reference"}),
        ("from ..data import Window", {"data.__init__"}),
        ("import stateful_lstm.state", {"state"}),
        ("from stateful_lstm import StatefulLSTM", {"__init__"}),
        ("import torch", set()),
        ("def late():\n    from .. import reference", {"reference"}),
        ("if TYPE_CHECKING:\n    from .. import state\nelse:\n    from .. import info", {"info"}),
        ("class Inside:\n    from .. import state", {"state"}),
        ("try:\n    from .. import state\nfinally:\n    pass", {"state"}),
    ],
)
def test_imports_are_found(source, found):
    home = f"{PACKAGE}.new" if source.startswith("from . ") else f"{PACKAGE}.backend.new"
    assert imports(home, source) == {f"{PACKAGE}.{each}" for each in found}
