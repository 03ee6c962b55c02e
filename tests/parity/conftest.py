"""Counts golden cases and their worst deviations, and says so at the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .cases import FULL_FOLDER, GoldenCase
from .compare import Deviations, Recorder

_DEVIATIONS = Deviations()
_OUTCOMES: dict[str, set[str]] = {}
_REASONS: Counter[str] = Counter()


@pytest.fixture
def recorder_of() -> Callable[[GoldenCase], Recorder]:
    """Makes the recorder of a case."""
    return lambda case: Recorder(case, _DEVIATIONS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    params = getattr(getattr(item, "callspec", None), "params", {})
    for case in (value for value in params.values() if hasattr(value, "set_name")):
        if report.when == "call" or report.outcome != "passed":
            _OUTCOMES.setdefault(case.id, set()).add(report.outcome)
            if report.outcome == "skipped":
                _REASONS[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _OUTCOMES:
        return
    write = terminalreporter.write_line
    failed = sum("failed" in outcomes for outcomes in _OUTCOMES.values())
    passed = sum("passed" in outcomes and "failed" not in outcomes for outcomes in _OUTCOMES.values())
    terminalreporter.section("golden cases")
    write(f"{len(_OUTCOMES)} cases: {passed} passed, {failed} failed, {len(_OUTCOMES) - passed - failed} not covered.")
    if not FULL_FOLDER.is_dir():
        write(f"Only the compact selection: {FULL_FOLDER} is missing (DETKIT_GOLDENS).")
    for reason, count in sorted(_REASONS.items()):
        write(f"  not covered: {reason} ({count})")
    for (set_name, quantity), (figure, used) in sorted(_DEVIATIONS.worst.items()):
        write(f"  {set_name:13} {quantity:18} worst deviation {figure:.2e}, {100 * used:.0f} % of the tolerance")
