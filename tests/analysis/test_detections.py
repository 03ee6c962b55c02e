"""Analyses of detections and metrics files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detkit.analysis import (
    class_agnostic_precision,
    markdown_table,
    plot_convergence,
    plot_precision,
    plot_scores,
    read_convergence,
    save_figure,
    save_numbers,
    scores_and_overlaps,
)
from detkit.evaluation import EvaluationError, coco_of

BOX = [10.0, 10.0, 20.0, 20.0]  # xywh


@pytest.fixture
def ground_truth():
    objects = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [60.0, 60, 20, 20], "area": 400, "iscrowd": 0},
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return coco_of({"images": [{"id": 1, "width": 100, "height": 100}], "annotations": objects, "categories": categories})


def detection(category, box, score):
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def test_classes_do_not_count_when_they_are_taken_for_one(ground_truth):
    wrong_class = [detection(2, BOX, 0.9)]
    precision = class_agnostic_precision(ground_truth, wrong_class)
    assert precision.class_names == ("all",) and precision.num_objects == (2,)
    # one of two objects found: precision 1 up to recall 0.5, which is 51 of 101 levels
    assert precision.ap(iou=0.5) == pytest.approx(100 * 51 / 101)
    assert {a["category_id"] for a in ground_truth.dataset["annotations"]} == {1, 2}
    assert len(plot_precision({"run": precision}).axes) == 3


def test_overlap_with_the_best_object_of_the_class(ground_truth):
    half = [10.0, 10.0, 20.0, 10.0]
    result = scores_and_overlaps(ground_truth, [detection(1, half, 0.9), detection(2, half, 0.8), detection(1, BOX, 0.3)])
    np.testing.assert_allclose(result.overlaps, [0.5, 0.0, 1.0])
    np.testing.assert_allclose(result.scores, [0.9, 0.8, 0.3])
    row = result.row()
    assert row["detections"] == 3 and row["overrated %"] == pytest.approx(100 / 3)
    assert row["rank correlation"] == pytest.approx(-0.5)
    assert len(plot_scores({"a": result, "b": result}).axes) == 2


def test_no_detections(ground_truth):
    row = scores_and_overlaps(ground_truth, []).row()
    assert row["detections"] == 0 and np.isnan(row["rank correlation"])
    assert class_agnostic_precision(ground_truth, []).ap() == 0


def test_convergence_of_runs(tmp_path):
    lines = [{"iteration": 9, "total_loss": 1.0}, {"iteration": 19, "bbox/AP": 10.0}, {"iteration": 39, "bbox/AP": 30.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    series = read_convergence(tmp_path)
    assert series.iterations.tolist() == [19, 39] and series.values.tolist() == [10.0, 30.0]
    (line,) = plot_convergence({"run": series}, iterations_per_epoch=10).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [1.9, 3.9])
    with pytest.raises(EvaluationError, match="no segm/AP was logged, but \\['bbox/AP'\\]"):
        read_convergence(tmp_path, "segm/AP")
    with pytest.raises(EvaluationError, match="no such file"):
        read_convergence(tmp_path / "elsewhere.json")


def test_results_are_written(tmp_path):
    rows = {"one": {"a": 1, "b": 0.5}, "two": {"a": 2, "b": float("nan"), "c": "x"}}
    table = markdown_table(rows, head="run").splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == ["run", "a", "b", "c"]
    assert [cell.strip() for cell in table[3].strip("|").split("|")] == ["two", "2", "", "x"]
    save_numbers(rows, tmp_path / "new" / "rows.json")
    assert json.loads((tmp_path / "new" / "rows.json").read_text())["two"]["b"] is None
    figure = plot_scores({"x": scores_and_overlaps(coco_of({"images": [], "annotations": [], "categories": []}), [])})
    save_figure(figure, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
