"""What a limit of a config value allows."""

from __future__ import annotations

from typing import Any

import pytest

from detkit.config.limits import allowed_values, number_or_none


@pytest.mark.parametrize(
    "limit, allowed, refused",
    [
        ("(0, 1)", [0.5, 1e-9], [0, 1, -0.1, 2, float("nan")]),
        ("[0, 1]", [0, 1, 0.5, 1.0], [-1e-9, 1.0001, float("nan")]),
        ("(0, 1]", [1, 0.1], [0, 1.1]),
        ("[0, 1)", [0, 0.9], [1]),
        ("[1, inf)", [1, 10**9], [0.99, float("inf"), float("nan")]),
        ("[0.5, 2)", [[0.5, 1], (1.9,), []], [[0.5, 2], (1, 0.4), [1, "1"]]),
        ("[0, 1]", [0], [True, "0.5", None]),
    ],
)
def test_intervals(limit: str, allowed: list[Any], refused: list[Any]) -> None:
    assert [allowed_values(value, limit) for value in allowed] == [None] * len(allowed)
    assert [allowed_values(value, limit) for value in refused] == [f"in {limit}"] * len(refused)


def test_words() -> None:
    assert allowed_values("giou", ("iou", "giou")) is None and allowed_values(["iou", "giou"], ("iou", "giou")) is None
    assert allowed_values("giuo", ("iou", "giou")) == "one of 'iou', 'giou' (did you mean 'giou'?)"
    assert allowed_values(["iou", "x"], ("iou", "giou")) == "one of 'iou', 'giou'"
    assert allowed_values(True, ("iou",)) == "one of 'iou'"


def test_a_number_or_none() -> None:
    limit = number_or_none("[0, 1]")
    assert [allowed_values(value, limit) for value in (None, 0, 0.5, 1.0)] == [None] * 4
    assert [allowed_values(value, limit) for value in (1.1, -1, "0.5", True, float("nan"))] == ["in [0, 1], or none"] * 5
