"""Every config that claims a published one trains and tests as it does, but for what ``projects/differences.yaml`` declares."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .architectures import CONFIGS, config_name, read
from .differences import Difference, declared, fitting
from .pretrained import address_of, pretrained_weights
from .settings import published, repositories, settings_of, source_of

CLAIMING = [path for path in CONFIGS if source_of(path)]
EACH_CLAIMING = pytest.mark.parametrize("path", CLAIMING, ids=config_name)
#: settings of the sources that no config key of ours decides, and where they are tested instead
NOT_IN_CONFIGS = {
    "assigner.heatmap.": "corner point verification: golden case lsnet/cpv",
    "loss.heatmap_weight": "corner point verification: golden case lsnet/cpv",
    "loss.offset_weight": "corner point verification: golden case lsnet/cpv",
    "loss.sem_weight": "corner point verification: golden case lsnet/cpv",
    "loss.no_object_weight": "of a softmax alone, which no published config has",
}


def is_compared(key: str, path: Path) -> bool:
    if key.startswith("multi_scale_test"):
        return path.stem.endswith("ms_test")
    return not any(key.startswith(prefix) for prefix in NOT_IN_CONFIGS)


def same(theirs: Any, ours: Any) -> bool:
    """Whether two settings are the same: numbers to a millionth, lists and dicts element by element."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(same(theirs[key], ours[key]) for key in theirs)
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(same, theirs, ours))
    if isinstance(theirs, bool) or isinstance(ours, bool) or theirs is None or ours is None:
        return theirs is ours
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return math.isclose(theirs, ours, rel_tol=1e-6)
    return theirs == ours


@cache
def compare(path: Path) -> tuple[dict[str, tuple[Any, Any]], int]:
    """What differs between a config and its source, key -> (theirs, ours), and how many settings were compared."""
    theirs, ours = published(source_of(path) or ""), settings_of(read(path))
    if path.stem.endswith("ms_test"):
        theirs = type(theirs)({key: value for key, value in theirs.items() if key.startswith("multi_scale_test")})
    keys = [key for key in theirs if is_compared(key, path) and not (key == "loss.box.least_normaliser" and theirs[key] in (None, 1e-6))]
    untranslated = [key for key in keys if key not in ours and theirs[key] is not None]
    assert not untranslated, f"tests/config/settings.py says nothing about {untranslated}"
    return {key: (theirs[key], ours.get(key)) for key in keys if not same(theirs[key], ours.get(key))}, len(keys)


@EACH_CLAIMING
def test_config_trains_and_tests_as_its_source(path: Path) -> None:
    differences, compared = compare(path)
    assert compared >= 12
    undeclared = {key: values for key, values in differences.items() if not fitting(config_name(path), key)}
    assert undeclared == {}, "theirs, ours; mend the config or declare the difference in projects/differences.yaml"


@pytest.mark.parametrize("entry", declared(), ids=lambda entry: entry.title)
def test_declared_difference_is_one(entry: Difference) -> None:
    """Each config and each key that a declaration names differs; a reason is given."""
    found = {
        (pattern, key)
        for path in CLAIMING
        for key in compare(path)[0]
        for pattern in entry.configs
        if entry.fits(config_name(path), key) and entry.is_named(pattern, config_name(path))
    }
    assert {pattern for pattern, _ in found} == set(entry.configs)
    assert {key for key in entry.keys if any(re.fullmatch(entry.pattern(key), name) for _, name in found)} == set(entry.keys)
    assert len(entry.reason) > 20


def test_all_published_configs_of_the_file_are_claimed() -> None:
    claimed = {source_of(path) for path in CLAIMING}
    named = {f"{repository}:{path}" for repository, group in repositories().items() for path in group["configs"]}
    assert claimed == named


def test_weights_are_offered_by_somebody() -> None:
    """Every address of pretrained weights stands in the list, with who offers it; the list names no other."""
    used = {address_of(read(path)) for path in CONFIGS} - {""}
    assert used == set(pretrained_weights())
    assert all(entry["source"] and entry["kind"] for entry in pretrained_weights().values())


def test_numbers_of_settings() -> None:
    """How much is compared, for the record: print it with ``pytest -s``."""
    results = [compare(path) for path in CLAIMING]
    compared, different = sum(count for _, count in results), sum(len(found) for found, _ in results)
    print(f"{len(CLAIMING)} configs, {compared} settings compared, {different} differ, each for one of {len(declared())} declared reasons")
    assert compared > 5000 and different < compared / 10
