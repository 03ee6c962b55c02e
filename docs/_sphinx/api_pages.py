"""Sphinx extension: writes the pages of the API reference, one per package, to ``docs/api`` before a build.

A page shows what its package exports, and then its modules with what they have beyond that. So every public name has one place, under the
name by which it is imported.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from references import modules
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", lambda app, _: write_pages(Path(app.srcdir) / "docs" / "api"))
    return {"parallel_read_safe": True}


def write_pages(folder: Path) -> None:
    """Writes the pages, removes those of packages that are gone, and leaves alone what would not change."""
    pages = {f"{name}.rst": text for name, text in _pages().items()}
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _pages() -> dict[str, str]:
    """Text of the page by package."""
    loaded = {name: importlib.import_module(name) for name in modules()}
    pages: dict[str, list[str]] = {}
    for name, module in loaded.items():
        package = _page_of(name, loaded)
        if package == name:
            exported = [member for member in _exported(module) if member not in _exported_above(name, loaded)]
            pages[name] = [name, "=" * len(name), "", *_directive(name, exported)]
        else:
            pages[package] += [name, "-" * len(name), "", *_module(module, _own_names(module, loaded), loaded)]
    return {package: "\n".join(lines) for package, lines in pages.items()}


def _page_of(name: str, loaded: dict[str, ModuleType]) -> str:
    """The package on whose page a module stands: the room of detkit, or the package of a method."""
    parts = name.split(".")
    room = ".".join(parts[:2])
    return room if parts[0] == "detkit" and room in loaded else parts[0]


def _directive(name: str, members: list[str]) -> list[str]:
    options = [f"   :members: {', '.join(members)}"] if members else []
    return [f".. automodule:: {name}", *options, ""]


def _module(module: ModuleType, members: list[str], loaded: dict[str, ModuleType]) -> list[str]:
    package, _, name = module.__name__.rpartition(".")
    if name not in _exported(loaded[package]):
        return _directive(module.__name__, members)
    entries: list[str] = []
    for member in members:
        kind = _kind(getattr(module, member))
        entries += [f".. auto{kind}:: {module.__name__}::{member}", *(["   :members:"] if kind == "class" else []), ""]
    # the entry in the index is that of the function of the same name
    return [f".. automodule:: {module.__name__}", "   :no-index:", "", *entries]


def _kind(thing: Any) -> str:
    return "class" if inspect.isclass(thing) else "function" if inspect.isroutine(thing) else "data"


def _exported(module: ModuleType) -> list[str]:
    """Classes and functions in ``__all__``, and constants that are described there."""
    return [name for name in getattr(module, "__all__", ()) if name in _described(module) or _kind(getattr(module, name)) != "data"]


def _own_names(module: ModuleType, loaded: dict[str, ModuleType]) -> list[str]:
    """What a module defines, or a package exports, that no package above exports."""
    exported = _exported_above(module.__name__, loaded)
    names = [name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__]
    names = [name for name in names if _kind(getattr(module, name)) != "data"] + sorted(_described(module))
    names += _exported(module) if hasattr(module, "__path__") else []
    return [name for name in dict.fromkeys(names) if not name.startswith("_") and name not in exported]


def _exported_above(name: str, loaded: dict[str, ModuleType]) -> set[str]:
    """What the packages around a module export."""
    exported: set[str] = set()
    while "." in name:
        name = name.rpartition(".")[0]
        exported |= set(_exported(loaded[name]))
    return exported


@cache
def _described(module: ModuleType) -> set[str]:
    """Constants of a module with a comment of the form ``#: text``."""
    return {name for owner, name in ModuleAnalyzer.for_module(module.__name__).find_attr_docs() if not owner}
