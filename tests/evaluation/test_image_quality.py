from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from detkit.evaluation import CocoEvaluation, best_score_threshold, image_qualities, read_ground_truth


def test_quality_is_panoptic_quality(ground_truth_file: Path, detections: list[dict[str, Any]]) -> None:
    evaluation = CocoEvaluation(read_ground_truth(ground_truth_file), detections)
    images = image_qualities(evaluation, score_threshold=0.5)
    assert images[1].hits == pytest.approx({0: 1.0, 1: 0.8})
    assert images[1].quality == pytest.approx(0.9)
    assert images[2].hits == pytest.approx({2: 1.0})
    assert images[2].false == {4}
    assert images[2].ignored == {3}
    assert images[2].found == {3}
    assert images[2].missed == {4}
    assert images[2].quality == pytest.approx(1.0 / (1 + 0.5 + 0.5))
    assert math.isnan(images[3].quality)


def test_lower_threshold_finds_more(ground_truth_file: Path, detections: list[dict[str, Any]]) -> None:
    evaluation = CocoEvaluation(read_ground_truth(ground_truth_file), detections)
    images = image_qualities(evaluation, score_threshold=0.0)
    assert images[2].found == {3, 4}
    assert images[2].hits[5] == pytest.approx(840 / 960)


def test_matching_does_not_depend_on_detections_below_the_threshold(ground_truth_file: Path, detections: list[dict[str, Any]]) -> None:
    ground_truth = read_ground_truth(ground_truth_file)
    kept = [d for d in detections if d["score"] >= 0.5]
    all_images = image_qualities(CocoEvaluation(ground_truth, detections), score_threshold=0.5)
    assert all_images == image_qualities(CocoEvaluation(ground_truth, kept), score_threshold=0.0)


def test_only_false_alarms_score_zero(ground_truth_file: Path) -> None:
    false_alarm = [{"image_id": 3, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.9}]
    images = image_qualities(CocoEvaluation(read_ground_truth(ground_truth_file), false_alarm), score_threshold=0.5)
    assert images[3].quality == 0.0
    assert images[1].missed == {1, 2}


def test_best_threshold_is_the_one_of_an_exhaustive_search(ground_truth_file: Path, detections: list[dict[str, Any]]) -> None:
    evaluation = CocoEvaluation(read_ground_truth(ground_truth_file), detections)

    def f1(threshold: float) -> float:
        images = image_qualities(evaluation, score_threshold=threshold).values()
        hits = sum(len(image.hits) for image in images)
        wrong = sum(len(image.false) + len(image.missed) for image in images)
        return 2 * hits / (2 * hits + wrong)

    best = max((d["score"] for d in detections), key=f1)
    assert best_score_threshold(evaluation) == best == 0.1


def test_best_threshold_without_hits_is_zero(ground_truth_file: Path) -> None:
    assert best_score_threshold(CocoEvaluation(read_ground_truth(ground_truth_file), [])) == 0.0
