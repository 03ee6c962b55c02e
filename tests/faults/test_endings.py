"""The helpers of this folder see an ending that is not good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toys.own_data import Outcome, OwnData

from .endings import assert_ends_well, assert_goes_through


@pytest.mark.parametrize(
    ("message", "console", "code"),
    [
        (None, "fine", 0),
        ("", "not a word", 1),
        ("error: a", "error: a", 0),
        ("error: a", "Traceback (most recent call last):\nerror: a", 1),
        ("error: a", "error: a\nerror: a", 1),
        ("error: a\nb", "error: a\nb", 1),
        ("error: b", "error: b", 1),
    ],
)
def test_bad_endings_are_seen(message: str | None, console: str, code: int, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        assert_ends_well(Outcome(message, console, tmp_path, code), "a")


def test_both_ways_to_run_end_alike(own_data: OwnData) -> None:
    words = ("SOLVER.BASE_RL", "1")
    here, apart = own_data.run(*words), own_data.start(*words).end()
    for outcome in (here, apart):
        assert_ends_well(outcome, "no config key 'SOLVER.BASE_RL'", code=here.code)
    assert here.message == apart.message
    assert_goes_through(own_data.run(), "bbox")
