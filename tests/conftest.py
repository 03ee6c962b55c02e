"""The same random numbers in every run of a test; comparisons that refuse emptiness; and at the end the golden cases: how many ran, what
was not covered, the worst deviations, also over several processes."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from detectron2.utils.env import seed_all_rng

from detkit.engine.console import OUR_LOGGERS
from tests import comparing
from tests.parity.cases import FULL_FOLDER

# a shell that starts the tests in the background or under nohup passes on that these are ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

comparing.install()

pytest_plugins = ["tests.toys.fixtures"]

_OUTCOMES: dict[str, set[str]] = {}
_REASONS: Counter[str] = Counter()
_WORST: dict[tuple[str, str], tuple[float, float]] = {}


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed_all_rng(0)


@pytest.fixture(autouse=True)
def _console_of_its_own() -> Iterator[None]:
    """A command line that ran in a test leaves its loggers behind, which would speak in the next ones."""
    yield
    for name in (*OUR_LOGGERS, "detectron2", "fvcore", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.captureWarnings(False)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.outcome == "passed":
        return
    for name, value in report.user_properties:
        if name == "golden case":
            _OUTCOMES.setdefault(str(value), set()).add(report.outcome)
            if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
                _REASONS[report.longrepr[2].removeprefix("Skipped: ")] += 1
        elif name == "golden deviation":
            set_name, quantity, absolute, used = value  # type: ignore[misc]
            old = _WORST.get((set_name, quantity), (0.0, 0.0))
            _WORST[set_name, quantity] = (max(old[0], absolute), max(old[1], used))


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
    for (set_name, quantity), (figure, used) in sorted(_WORST.items()):
        write(f"  {set_name:18} {quantity:18} worst deviation {figure:.2e}, {100 * used:.0f} % of the tolerance")
