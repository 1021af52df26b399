"""How Sphinx makes the pages: `make docs`. It needs no network."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "stateful_lstm"
author = "stateful_lstm developers"
copyright = author
# Read, not imported: a page's title needs no compiled library.
version_file = (ROOT / "stateful_lstm" / "_version.py").read_text(encoding="utf-8")
release = re.findall(r'__version__ = "(.*)"', version_file)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # links to headings, spelled as GitHub spells them
html_theme = "furo"
html_title = f"{project} {release}"

# The API's page comes from the docstrings: types stand in signatures, and are not said again below.
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Callback", "Sequences", "Steps")}
maximum_signature_line_length = 88
napoleon_use_rtype = False

# Every reference in a docstring must lead somewhere. Other projects' pages are not asked for, which
# would take the network; the page says what the names of types stand for.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|numpy|onnx|collections|os)\..*"),
    ("py:class", r"(.*\.)?(Input|Callback|Sequences|Steps)"),
]


def plain_signature(app, what, name, obj, options, signature, returns):
    """Without the traces of aliases and of a dataclass's factory, which Sphinx leaves in it."""
    if signature:
        signature = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature)
        signature = re.sub(r"<factory>", "{}", signature)
    return signature, returns


def setup(app):
    app.connect("autodoc-process-signature", plain_signature)
