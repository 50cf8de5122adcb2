"""Sphinx: builds the pages of this folder, and the reference from the docstrings of the installed package.

sphinx-build -W docs build/site
"""

import sys
import tomllib
from pathlib import Path

from sphinx.addnodes import pending_xref

ROOT = Path(__file__).parent.parent
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
sys.path.insert(0, str(ROOT / "docs"))

project = "jax_rnnt"
release = METADATA["version"]
author = copyright = "the authors of jax_rnnt"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "api_pages",
    "mathml",
    "outputs",
]
html_math_renderer = "mathml"
nitpicky = True
nitpick_ignore = [("py:exc", "jax.errors.JaxRuntimeError")]
highlight_language = "none"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Docstrings give shapes and types in words; annotations would fill the signatures.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"jax_rnnt {release}"
html_baseurl = METADATA["urls"]["Documentation"]
html_theme_options = {
    "source_repository": METADATA["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False


def _find_in_every_module(_, doctree) -> None:
    """Docstrings name an object without its module, such as `Loss` in `jax_rnnt.decoding`. All modules are searched."""
    for reference in doctree.findall(pending_xref):
        if reference["refdomain"] == "py":
            reference["refspecific"] = True


def setup(app) -> None:
    app.connect("doctree-read", _find_in_every_module)
