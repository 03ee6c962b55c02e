"""What the cross-references of docstrings (``:class:`Grid```) mean. Needs no Sphinx: the fast tests ask here, too."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

#: top-level packages with an API reference, in its order
PACKAGES = ("detkit", "fcos_atss", "sparsercnn", "lsnet", "dw")
_ROLE = re.compile(r":(class|func|meth|mod|data|attr|exc):`~?([\w.]+)`")


class Place(NamedTuple):
    """Where something is defined: its module, and its dotted name there, empty for the module itself."""

    module: str
    name: str

    @property
    def parents(self) -> Iterator[str]:
        """Dotted names under which the thing may be documented: in its module, or in a package above that exports it."""
        parts = self.module.split(".")
        for count in range(len(parts), 0, -1):
            yield ".".join([*parts[:count], *([self.name] if self.name else [])])


def resolve(target: str, module: str | None = None, owner: str | None = None) -> Place | None:
    """Finds what a cross-reference means: a name of the class or module around it, a dotted name, or the only export of its name.

    Args:
        target: the text between the backticks, without ``~``.
        module: dotted name of the module whose docstring holds it.
        owner: name of the class there whose docstring holds it.

    Returns:
        where the thing is defined, or None if there is no such thing.
    """
    prefixes = ([f"{module}.{owner}."] if module and owner else []) + ([f"{module}."] if module else []) + [""]
    place = next((place for prefix in prefixes if (place := _resolve_absolute(prefix + target))), None)
    if place is None and len(exporting := _exports().get(target, set())) == 1:
        (place,) = exporting
    return place


def modules() -> list[str]:
    """Dotted names of all modules of the packages, packages before what is in them."""
    names = []
    for package in map(importlib.import_module, PACKAGES):
        names.append(package.__name__)
        names += sorted(info.name for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."))
    return names


@cache
def _exports() -> dict[str, set[Place]]:
    """What the ``__all__`` of any module holds, by name."""
    places: dict[str, set[Place]] = {}
    for module in map(importlib.import_module, modules()):
        for name in getattr(module, "__all__", ()):
            place = _resolve_in(module, [name])
            if place is not None:
                places.setdefault(name, set()).add(place)
    return places


def references_of(source: str) -> Iterator[tuple[str, str | None, int]]:
    """Target, name of the class around it, and line of the docstring of every cross-reference in a Python source."""

    def walk(node: ast.AST, owner: str | None) -> Iterator[tuple[str, str | None, int]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inside = f"{owner}.{node.name}".removeprefix("None.") if isinstance(node, ast.ClassDef) else owner
            line = getattr(node, "lineno", 1)
            yield from ((target, inside, line) for _, target in _ROLE.findall(ast.get_docstring(node) or ""))
            owner = inside
        for child in ast.iter_child_nodes(node):
            yield from walk(child, owner)

    return walk(ast.parse(source), None)


def _resolve_absolute(dotted: str) -> Place | None:
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        module = _import(".".join(parts[:count]))
        if module is not None:
            return _resolve_in(module, parts[count:])
    return None


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _resolve_in(module: ModuleType, names: list[str]) -> Place | None:
    thing: Any = module
    place = Place(module.__name__, "")
    for name in names:
        owner, thing = thing, inspect.getattr_static(thing, name, None)
        if thing is None and not (inspect.isclass(owner) and _has_field(owner, name)):
            return None
        if inspect.isclass(thing) or inspect.isfunction(thing):
            place = Place(thing.__module__, thing.__qualname__)
        elif isinstance(thing, ModuleType):
            place = Place(thing.__name__, "")
        else:
            place = Place(place.module, f"{place.name}.{name}".removeprefix("."))
    return place


def _has_field(owner: type, name: str) -> bool:
    """Whether instances have an attribute that the class only annotates, or that a constructor sets."""
    if any(name in inspect.get_annotations(base) for base in owner.__mro__):
        return True
    constructors = (base.__dict__.get("__init__") for base in owner.__mro__)
    return any(re.search(rf"\bself\.{name}\b[^=\n]*=", _source(each)) for each in constructors if inspect.isfunction(each))


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except OSError:  # made by dataclasses and the like
        return ""
