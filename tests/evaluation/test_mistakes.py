from __future__ import annotations

import pytest

from detkit.evaluation import why_false

OBJECTS = [{"category_id": 1, "bbox": [0, 0, 10, 10]}, {"category_id": 2, "bbox": [100, 0, 10, 10]}]


@pytest.mark.parametrize(
    ("category", "box", "expected"),
    [
        (1, [0, 0, 10, 9], "duplicate"),
        (1, [0, 5, 10, 10], "badly placed"),
        (1, [100, 0, 10, 10], "wrong class"),
        (1, [105, 0, 10, 10], "wrong class and badly placed"),
        (1, [50, 50, 10, 10], "background"),
        (1, [9, 9, 10, 10], "background"),
    ],
)
def test_kinds_of_mistakes(category: int, box: list[float], expected: str) -> None:
    assert why_false({"category_id": category, "bbox": box, "score": 0.5}, OBJECTS) == expected


def test_on_an_image_without_objects_all_is_background() -> None:
    assert why_false({"category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}, []) == "background"
