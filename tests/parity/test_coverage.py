"""Every golden case of the manifest is read by a test, and what no test reads is reported as not covered."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .cases import COMPACT_FOLDER, FULL_FOLDER, METHOD_SETS, SETS, GoldenCase, compact_selection, find_cases, unlisted_cases
from .sources import not_covered

ALL_SETS = (*SETS, *METHOD_SETS, "mmdet_keys")
#: kinds that no test of this folder reads, and why
NOT_READ = {
    "comparison": "compares published codes with each other",
    "keys": "key lists, not numbers: read in tests/checkpoint and tests/sparsercnn",
}


def values_of(parameter: Any) -> tuple[Any, ...]:
    """The values that a parameter set gives to its arguments."""
    return getattr(parameter, "values", parameter if isinstance(parameter, tuple) else (parameter,))


def cases_of_tests() -> Iterator[GoldenCase]:
    """The cases with which the tests of this folder are parametrized."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for test in vars(importlib.import_module(f"{__package__}.{path.stem}")).values():
            for mark in getattr(test, "pytestmark", ()):
                if mark.name == "parametrize" and test is not test_not_covered:
                    yield from (value for each in mark.args[1] for value in values_of(each) if isinstance(value, GoldenCase))


@pytest.mark.parametrize("case", [case for case in find_cases(sets=ALL_SETS) if case.kind in NOT_READ], ids=lambda case: case.id)
def test_not_covered(case: GoldenCase) -> None:
    pytest.skip(NOT_READ[case.kind])


def test_every_case_is_read() -> None:
    expected = {case.id for case in find_cases(sets=ALL_SETS) if case.kind not in NOT_READ}
    assert {case.id for case in cases_of_tests()} == expected


def test_every_case_is_in_the_manifest() -> None:
    unlisted = [case.id for case in unlisted_cases()]
    assert not [name for name in unlisted if name.startswith("compact:")]
    if unlisted:
        pytest.skip(f"not in tests/parity/manifest.json: {', '.join(unlisted)}")


def test_the_full_set_is_there() -> None:
    if not FULL_FOLDER.is_dir():
        pytest.skip(f"golden cases are missing: {FULL_FOLDER} (DETKIT_GOLDENS); the compact selection ran")
    assert {case.set_name for case in find_cases(sets=ALL_SETS) if case.folder == FULL_FOLDER} == set(ALL_SETS)


def test_the_compact_selection_is_complete() -> None:
    assert set(compact_selection()) == {*SETS, *METHOD_SETS}
    assert all(names for names in compact_selection().values())
    compact = [case for case in find_cases() if case.folder == COMPACT_FOLDER]
    kinds = {case.kind for case in find_cases()} - NOT_READ.keys()
    assert kinds - {"official_raises"} <= {case.kind for case in compact}
    assert not [case.id for case in compact if not_covered(case)]
    assert sum(path.stat().st_size for path in COMPACT_FOLDER.rglob("*") if path.is_file()) <= 7 * 2**20


def test_a_case_that_vanishes_fails_at_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.parity.cases.FULL_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="golden case dw/loss of tests/parity/manifest.json is missing"):
        find_cases("loss", sets=("dw",))


def test_kinds_that_no_case_has_fail_at_collection() -> None:
    with pytest.raises(ValueError, match="lists no case of the kinds losses in dw"):
        find_cases("losses", sets=("dw",))


def test_without_the_full_set_the_compact_selection_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.parity.cases.FULL_FOLDER", tmp_path / "nowhere")
    assert [case.id for case in find_cases(sets=("dw",))] == [
        "compact:dw/loss",
        "compact:dw/refine",
        "compact:dw/pieces",
        "compact:dw/weighting",
    ]
    assert find_cases("train", sets=("atss_official", "mmdet_fcos")) == []


def test_every_clone_has_a_whole_model_of_every_method() -> None:
    whole = {
        set_name: [
            case.name for case in find_cases(sets=(set_name,)) if case.folder == COMPACT_FOLDER and case.state_shapes and _detects(case)
        ]
        for set_name in ("fcos", "mmdet_fcos", "mmdet_atss", "dw", "mmdet_tood", "lsnet", "sparsercnn")
    }
    assert all(whole.values()), whole


def _detects(case: GoldenCase) -> bool:
    """Whether detections of a whole network are compared."""
    return any(name.startswith("det_boxes") and len(value) > 0 for name, value in case.arrays.items())
