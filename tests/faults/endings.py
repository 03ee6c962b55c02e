"""How a command line has to end when something is wrong."""

from __future__ import annotations

import re

from tests.toys.own_data import Outcome


def assert_ends_well(outcome: Outcome, *says: str, code: int | None = None, most_lines: int = 1) -> None:
    """One error for the user, and nothing else that looks like one.

    Args:
        outcome: of a command line that has to fail.
        says: what its message holds, as regular expressions: the file, key or value, and what to do.
        code: its exit status; None is any but 0.
        most_lines: of the message; more than one where several faults are listed below each other.
    """
    assert outcome.message is not None, f"It went through:\n{outcome.console}"
    assert (outcome.code != 0) if code is None else (outcome.code == code), f"status {outcome.code}:\n{outcome.console}"
    assert "Traceback" not in outcome.console, outcome.console
    assert "Logging error" not in outcome.console, outcome.console
    assert len(re.findall(r"^error", outcome.console, re.MULTILINE)) == 1, outcome.console
    assert len(outcome.message.strip().splitlines()) <= most_lines, outcome.message
    for words in says:
        assert re.search(words, outcome.message), f"{words!r} is missing in:\n{outcome.message}"


def assert_goes_through(outcome: Outcome, *says: str) -> None:
    """The command line went to its end without an error; ``says``: what the console shows, as regular expressions."""
    assert outcome.message is None and outcome.code == 0, outcome.console
    assert "Traceback" not in outcome.console, outcome.console
    for words in says:
        assert re.search(words, outcome.console), f"{words!r} is missing in:\n{outcome.console}"
