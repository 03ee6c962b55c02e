"""Every report of a golden case says which case it was and how far the numbers were apart; tests/conftest.py sums up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .cases import FULL_FOLDER, GoldenCase
from .compare import Recorder


@pytest.fixture
def recorder_of(record_property: Callable[[str, object], None]) -> Iterator[Callable[[GoldenCase], Recorder]]:
    """Makes the recorder of a case. A test that has compared empty arrays alone fails."""
    made: list[Recorder] = []

    def make(case: GoldenCase) -> Recorder:
        made.append(Recorder(case, lambda *deviation: record_property("golden deviation", deviation)))
        return made[-1]

    yield make
    empty = [recorder.case.id for recorder in made if recorder.arrays and not recorder.compared]
    assert not empty, f"not a single number was compared of {', '.join(empty)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    params = getattr(getattr(item, "callspec", None), "params", {})
    report.user_properties += [("golden case", value.id) for value in params.values() if isinstance(value, GoldenCase)]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses a test that would compare nothing. Without the full set, tests of cases that it alone has are skipped."""
    empty = [item.nodeid for item in items for mark in item.iter_markers("skip") if "empty parameter set" in mark.kwargs.get("reason", "")]
    if empty and FULL_FOLDER.is_dir():
        raise pytest.UsageError(f"no golden case fits, so nothing would be compared: {', '.join(empty)}")
