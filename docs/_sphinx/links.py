"""Sphinx extension: follows the cross-references of docstrings to where the reference documents what they name.

A docstring names things as the code around it does (``:class:`Grid```), while the reference documents them under the package that exports
them. What is private or belongs to other projects is shown without a link, if it exists. Anything else remains a
warning.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from references import PACKAGES, Place, resolve
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", _follow)
    app.connect("env-updated", _drop_aliases)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _follow(app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement) -> nodes.Element | None:
    if node.get("refdomain") != "py":
        return None
    place = resolve(node["reftarget"], node.get("py:module"), node.get("py:class"))
    documented = env.domains["py"].objects  # type: ignore[attr-defined]
    found = _documented(place, documented) if place else None
    if place and found:
        entry = documented[found]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contents, found)
    written_by_hand = isinstance(node.next_node(), nodes.literal)
    plain = place is not None and (place.module.partition(".")[0] not in PACKAGES or re.search(r"(^|\.)_", place.name))
    return contents if plain or not written_by_hand else None  # None: Sphinx warns


def _drop_aliases(app: Sphinx, env: BuildEnvironment) -> None:
    """Forgets the second names of classes, where they are defined, which make short names ambiguous; :func:`_follow` knows them."""
    objects = env.domains["py"].objects  # type: ignore[attr-defined]
    for name in [name for name, entry in objects.items() if entry.aliased]:
        del objects[name]


def _documented(place: Place, documented: dict[str, Any]) -> str | None:
    """The name under which the reference holds a thing or, for an attribute that has no entry of its own, its class."""
    name = place.name
    while True:
        found = next((each for each in Place(place.module, name).parents if each in documented), None)
        if found or "." not in name:
            break
        name = name.rpartition(".")[0]
    if found is None and name.isupper():  # a constant is documented where it is defined, and tells nobody where that is
        candidates = [each for each in documented if each.rpartition(".")[2] == name]
        found = candidates[0] if len(candidates) == 1 else None
    return found


def _skip(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples are described by their class."""
    return True if type(thing).__name__ == "_tuplegetter" else None
