"""The examples in docstrings run and give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

from detkit.config import METHOD_PACKAGES

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("detkit", *METHOD_PACKAGES)
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_the_rooms_of_small_parts_have_examples():
    rooms = {name.split(".")[1] for name in MODULES if name.startswith("detkit.")}
    assert {"geometry", "losses", "layers"} <= rooms


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module, package = importlib.import_module(name), importlib.import_module(name.rpartition(".")[0])
    exported = {each: getattr(package, each) for each in getattr(package, "__all__", ())}
    result = doctest.testmod(module, extraglobs={"torch": torch} | exported)
    assert result.attempted > 0 and result.failed == 0
