"""Every config that claims a published one trains and tests as it does, but for what ``projects/differences.yaml`` declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .architectures import CONFIGS, config_name, read
from .cards import CARDS, part_of, rendered
from .comparison import compare
from .differences import Difference, declared, fitting
from .pretrained import address_of, pretrained_weights
from .settings import repositories, source_of

CLAIMING = [path for path in CONFIGS if source_of(path)]
EACH_CLAIMING = pytest.mark.parametrize("path", CLAIMING, ids=config_name)


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


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_cards_show_sources_weights_and_differences(card: Path) -> None:
    assert part_of(card) == rendered(card), "write it again: python -m tests.config.cards"
