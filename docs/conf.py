"""How Sphinx builds the documentation: the pages of the repository as they are, and an API reference from the docstrings (``make docs``).

Sphinx takes the whole repository for its sources, so that the links of the pages lead to the same files as on a hosting site.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_sphinx")]

import detkit.engine  # noqa: E402  it silences what dependencies say when they are imported

project = "detkit"
release = version = detkit.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "api_pages", "links"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "docs/api/*.rst", "projects/**.md", "benchmarks/*.md", "configs/**.md", "tests/**.md"]
exclude_patterns = [".*", "**/.*", "output", "build", "dist"]
nitpicky = True  # a reference that leads nowhere is a warning, and "make docs" takes warnings for errors

myst_heading_anchors = 4
autodoc_default_options = {"member-order": "bysource", "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"detkit {version}"
html_extra_path = ["_sphinx/html"]
html_copy_source = False
