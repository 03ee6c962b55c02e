"""Imports run one way (docs/design.md): tests, tools, train_net.py -> methods -> detkit -> Detectron2, torchvision, timm -> torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from detkit.config import METHOD_PACKAGES

ROOT = Path(__file__).parents[1]
METHODS = set(METHOD_PACKAGES)
#: what stands above the packages and is imported by none of them
ABOVE = {"tests", "tools", "benchmarks", "train_net"}
#: packages of the project that each package may import, itself included
ALLOWED = {"detkit": {"detkit"}} | {method: {"detkit", method} for method in METHODS}


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_packages(source: str, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Top-level package and line of every import of a source, also those inside functions; ``package`` is where the source lies.

    A relative import stays in its own package unless it climbs out of it, which gives ``".."``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield (package[0] if node.level <= len(package) else ".."), node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0], node.lineno


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_lies_below_them(package):
    assert files_of(package), f"no source in {package}/"
    forbidden = (set(ALLOWED) | ABOVE | {".."}) - ALLOWED[package]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files_of(package)
        for name, line in imported_packages(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parent.parts)
        if name in forbidden
    ]
    assert not wrong, "\n".join(wrong)


def test_every_package_at_the_top_is_a_known_one():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ALLOWED) | {"tests"}


@pytest.mark.parametrize(
    "source, names",
    [
        ("import dw.refine as r", {"dw"}),
        ("from lsnet import head", {"lsnet"}),
        ("def f():\n    from sparsercnn.head import Head", {"sparsercnn"}),
        ("from . import head\nfrom .. import geometry", {"detkit"}),
        ("from ...dw import refine", {".."}),
        ("if TYPE_CHECKING:\n    import fcos_atss", {"fcos_atss"}),
    ],
)
def test_the_reader_of_imports_sees_every_form(source, names):
    assert {name for name, _ in imported_packages(source, ("detkit", "heads"))} == names


def test_no_package_needs_detectron2s_compiled_part():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ALLOWED
        for path in files_of(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detectron2") and any(a.name == "_C" for a in node.names)
    ]
    assert not wrong
