"""Imports run one way (docs/design.md): tests, tools, train_net.py -> methods -> detkit -> Detectron2, torchvision, timm -> torch."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from detkit.config import METHOD_PACKAGES

ROOT = Path(__file__).parents[1]
METHODS = set(METHOD_PACKAGES)
#: what stands above the packages and is imported by none of them
ABOVE = {"tests", "tools", "benchmarks", "train_net"}
#: rooms of detkit from the ground floor up; a room imports from floors below its own alone, and no two rooms import each other
FLOORS = (
    {"host", "distributed", "config_files", "onnx_predictor", "storage"},
    {"structures"},
    {"geometry", "config"},
    {"registry", "model_zoo"},
    {"losses", "layers", "checkpoint", "data", "tta"},
    {"assigners", "backbones", "evaluation"},
    {"dense"},
    {"visualization", "engine"},
    {"report", "export", "sharing"},
    {"analysis"},
    {"predictor"},
    {"demo"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
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


def rooms_imported(source: str, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Room and line of every import from detkit, also those inside functions and behind ``TYPE_CHECKING``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module or "") if part)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "detkit" else [module]
        else:
            continue
        for name in names:
            if name.startswith("detkit."):
                yield name.split(".")[1], node.lineno


def test_rooms_of_detkit_import_only_from_floors_below_their_own():
    wrong, rooms = [], set()
    for path in files_of("detkit"):
        relative = path.relative_to(ROOT)
        room = relative.with_suffix("").parts[1]
        if room == "__init__":
            continue
        rooms.add(room)
        for other, line in rooms_imported(path.read_text(encoding="utf-8"), relative.parent.parts):
            if other not in {room, "__version__"} and FLOOR_OF[other] >= FLOOR_OF[room]:
                wrong.append(f"{relative}:{line} imports {other}")
    assert not wrong, "\n".join(wrong)
    assert rooms == set(FLOOR_OF)


def test_files_of_a_room_do_not_import_in_a_circle():
    for package in ALLOWED:
        edges = {}
        for path in files_of(package):
            relative = path.relative_to(ROOT).with_suffix("")
            module = ".".join(relative.parts[:-1] if relative.name == "__init__" else relative.parts)
            edges[module] = {name for name in imported_modules(path.read_text(encoding="utf-8"), relative.parent.parts) if name != module}
        modules = {name: {other for other in others if other in edges} for name, others in edges.items()}
        graphlib.TopologicalSorter(modules).prepare()  # raises CycleError


def imported_modules(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names of the modules that a source imports; a package's own ``__init__`` only where it is named itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ([f"{module}.{alias.name}" for alias in node.names] if node.level and not node.module else [module])


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
