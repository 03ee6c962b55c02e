from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detkit.evaluation import EvaluationError, read_detections, read_ground_truth


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not json"), ("[]", "json object"), ('{"images": []}', "'categories' is missing"), (b"\xff\xfe\x00", "not json")],
)
def test_broken_ground_truth_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError, match=message) as error:
        read_ground_truth(path)
    assert "broken.json" in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.json does not exist"):
        read_ground_truth(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "detection 1 belongs to image 99"),
        ({"category_id": 4}, "detection 1 has category 4"),
        ({"score": None}, "detection 1 lacks score"),
    ],
)
def test_detections_of_other_data_are_refused(
    ground_truth_file: Path, detections: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    detections[1] = {key: value for key, value in (detections[1] | change).items() if value is not None}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(detections))
    with pytest.raises(EvaluationError, match=message):
        read_detections(path, read_ground_truth(ground_truth_file))


def test_results_must_be_a_list(ground_truth_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("{}")
    with pytest.raises(EvaluationError, match="json list"):
        read_detections(path, read_ground_truth(ground_truth_file))
