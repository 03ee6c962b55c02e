"""The scores on one dataset: COCO's, computed from the detections, or CrowdHuman's, as an evaluation stored them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.engine.evaluate import RESULTS_FILE
from detkit.engine.writers import METRICS_FILE
from detkit.evaluation import CocoEvaluation, Task
from detkit.evaluation.files import read_json

from .errors import ReportError
from .run import Run

__all__ = ["Scores", "coco_scores", "crowd_scores"]

TASK_NAMES: dict[Task, str] = {"bbox": "Boxes", "segm": "Masks", "keypoints": "Keypoints"}
CROWD_METRICS = ("AP", "mMR", "Recall", "JI")


@dataclass(frozen=True)
class Scores:
    """Scores in percent, NaN where there is nothing to measure.

    Args:
        headline: those at the head of the page, by the name they have there.
        tables: all of them, by task ("Boxes", "Masks", "Keypoints") and metric; those of boxes first.
        caption: of the table.
        note: whose scores they are.
    """

    headline: dict[str, float]
    tables: dict[str, dict[str, float]]
    caption: str
    note: str


def coco_scores(evaluations: Mapping[Task, CocoEvaluation]) -> Scores:
    """AP, AP50, ... of each task, "bbox" among them."""
    tables = {TASK_NAMES[task]: evaluation.average_precision.table() for task, evaluation in evaluations.items()}
    boxes = tables["Boxes"]
    return Scores(
        headline={"box AP": boxes["AP"], "AP50": boxes["AP50"], "AP75": boxes["AP75"]},
        tables=tables,
        caption="Average precision",
        note="All scores are COCO's, in percent; – where there is nothing to measure.",
    )


def crowd_scores(run: Run, dataset_name: str) -> Scores | None:
    """CrowdHuman's AP, mMR, recall and JI: those in ``results.json``, or in ``metrics.json`` where the run has logged later ones.

    Returns:
        None where neither file has them.

    Raises:
        ReportError, EvaluationError: ``results.json`` is broken.
    """
    path = run.folder / RESULTS_FILE
    content = _read_results(path) if path.exists() else {"results": {}}
    saved = _crowd_metrics(content["results"].get(dataset_name))
    logged, iteration = _last_logged(run, dataset_name)
    is_outdated = isinstance(content.get("iteration"), int) and iteration > content["iteration"]
    values, source = (logged, METRICS_FILE) if logged and (not saved or is_outdated) else (saved, RESULTS_FILE)
    if not values:
        return None
    return Scores(
        headline={"box AP": values["AP"], "mMR, lower is better": values["mMR"], "Recall": values["Recall"], "JI": values["JI"]},
        tables={TASK_NAMES["bbox"]: values},
        caption="Average precision AP, miss rate mMR (lower is better), recall and Jaccard index JI, all at IoU 0.5",
        note=f"All scores are CrowdHuman's, not COCO's, in percent, as the evaluation stored them in {source}; lower mMR is better. "
        "The pictures match detections by COCO's rules, with full bodies that are not cut at the border of the image.",
    )


def _read_results(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise ReportError(f"{path}: there are no 'results' in it. Evaluate the run again, or move the file away.")
    return content


def _crowd_metrics(by_task: Any) -> dict[str, float]:
    """Those of boxes; empty where one is missing."""
    boxes = by_task.get("bbox") if isinstance(by_task, dict) else None
    complete = isinstance(boxes, dict) and all(isinstance(boxes.get(metric), int | float) for metric in CROWD_METRICS)
    return {metric: float(boxes[metric]) for metric in CROWD_METRICS} if boxes and complete else {}


def _last_logged(run: Run, dataset_name: str) -> tuple[dict[str, float], int]:
    """The last logged values and their iteration; ({}, -1) where there are none. Names tell the dataset only where there are several."""
    prefix = "bbox" if len(run.cfg.DATASETS.TEST) == 1 else f"{dataset_name}/bbox"
    series = {metric: run.metrics[f"{prefix}/{metric}"] for metric in CROWD_METRICS if f"{prefix}/{metric}" in run.metrics}
    if len(series) < len(CROWD_METRICS):
        return {}, -1
    return {metric: float(each.values[-1]) for metric, each in series.items()}, int(series["AP"].iterations[-1])
