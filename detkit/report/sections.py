"""The sections of the page as data. What is not there yet is a :class:`Missing` that says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from markupsafe import Markup
from pycocotools.coco import COCO

from detkit.data import DataError, id_order, without_images
from detkit.engine.writers import METRICS_FILE
from detkit.evaluation import (
    DETECTIONS_FILE,
    AveragePrecision,
    CocoEvaluation,
    Task,
    best_score_threshold,
    coco_of,
    detection_limit,
    image_qualities,
    inference_folder,
    read_detections,
    read_ground_truth,
    read_unreadable,
)
from detkit.evaluation.curves import ap_series, loss_series, smoothed
from detkit.visualization.figures import Line, line_figure

from .gallery import Gallery, PicturePair, evenly_spread, rank_images
from .run import Run
from .scores import Scores, coco_scores, crowd_scores

__all__ = ["ClassRow", "DatasetSection", "Missing", "Plot", "curve_plots", "dataset_section"]

FIELDS: dict[Task, str] = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
NUM_GRID = 8
NUM_RANKED = 4
MAX_NAMED_CLASSES = 5


@dataclass(frozen=True)
class Missing:
    """Why a section is empty, and what would fill it."""

    reason: str


@dataclass(frozen=True)
class Plot:
    title: str
    svg: Markup


@dataclass(frozen=True)
class ClassRow:
    """One class: its objects and its scores in percent (NaN without objects)."""

    name: str
    num_objects: int
    ap: float
    ap50: float
    ap75: float


@dataclass(frozen=True)
class DatasetSection:
    """All about the detections on one dataset.

    Args:
        scores: of the dataset's own benchmark.
        classes, curves: of COCO's evaluation; empty where the scores are another's.
        score_threshold: of the pictures: where F1 is best.
        best, worst: ranked by :attr:`detkit.evaluation.ImageQuality.quality`.
    """

    name: str
    num_images: int
    num_objects: int
    num_detections: int
    scores: Scores
    classes: list[ClassRow]
    curves: list[Plot]
    score_threshold: float
    grid: list[PicturePair]
    best: list[PicturePair]
    worst: list[PicturePair]


def dataset_section(run: Run, dataset_name: str) -> DatasetSection | Missing:
    """Evaluates the detections that a run wrote for a dataset. CrowdHuman's scores are not computed again but those that were stored.

    Raises:
        EvaluationError, ReportError: a file is broken; names it.
    """
    results = _results_file(run.cfg, run.folder, dataset_name)
    if results is None:
        return Missing(f"No detections on {dataset_name} yet: evaluate the run (train_net.py --eval-only) to get {DETECTIONS_FILE}.")
    files = _image_files(dataset_name)
    if isinstance(files, Missing):
        return files
    annotations = _annotation_file(dataset_name, results.parent)
    if annotations is None:
        return _not_here(dataset_name)
    ground_truth = coco_of(without_images(read_ground_truth(annotations).dataset, read_unreadable(results.parent)))
    if not ground_truth.getAnnIds(iscrowd=False):
        return Missing(f"{annotations} holds no objects to compare the detections with.")
    detections = read_detections(results, ground_truth)
    sigmas = tuple(run.cfg.TEST.KEYPOINT_OKS_SIGMAS)
    evaluations = {
        task: CocoEvaluation(
            ground_truth, detections, task=task, keypoint_sigmas=sigmas, max_detections=_limit(run.cfg, dataset_name, ground_truth, task)
        )
        for task in _tasks(ground_truth, detections)
    }
    is_crowd = MetadataCatalog.get(dataset_name).get("evaluator_type") == "crowdhuman"
    scores = crowd_scores(run, dataset_name) if is_crowd else coco_scores(evaluations)
    if scores is None:
        return Missing(f"No scores on {dataset_name} are stored in {run.folder}: evaluate the run (train_net.py --eval-only) to get them.")
    boxes = evaluations["bbox"]
    threshold = best_score_threshold(boxes)
    gallery = Gallery(
        dataset_name=dataset_name,
        ground_truth=ground_truth,
        files=files,
        detections=detections,
        qualities=image_qualities(boxes, score_threshold=threshold),
        fields=[FIELDS[task] for task in evaluations],
    )
    best, worst = rank_images(gallery.qualities, NUM_RANKED)
    return DatasetSection(
        name=dataset_name,
        num_images=len(ground_truth.imgs),
        num_objects=len(ground_truth.getAnnIds(iscrowd=False)),
        num_detections=len(detections),
        scores=scores,
        classes=[] if is_crowd else _class_rows(boxes.average_precision),
        curves=[] if is_crowd else [_precision_recall_plot(boxes.average_precision, iou) for iou in (0.5, 0.75)],
        score_threshold=threshold,
        grid=[gallery.pair(image_id) for image_id in evenly_spread(_with_objects(ground_truth), NUM_GRID)],
        best=[gallery.pair(image_id) for image_id in best],
        worst=[gallery.pair(image_id) for image_id in worst],
    )


def curve_plots(run: Run) -> list[Plot] | Missing:
    """Losses, AP and learning rate over the iterations."""
    makers: list[Callable[[Run], Plot | None]] = [_loss_plot, _ap_plot, _learning_rate_plot]
    plots = [plot for make in makers if (plot := make(run)) is not None]
    return plots or Missing(f"Nothing is logged in {run.folder / METRICS_FILE} yet.")


def _loss_plot(run: Run) -> Plot | None:
    lines = []
    for number, (name, series) in enumerate(loss_series(run.metrics).items()):
        label = name.removeprefix("loss_").replace("_", " ")
        color = "ink" if name == "total_loss" else number - 1
        lines.append(Line(series.iterations, smoothed(series).values, label, color, raw=series.values))
    return _over_iterations("Losses", lines, ylabel="loss")


def _ap_plot(run: Run) -> Plot | None:
    # an evaluation is logged in the iteration it follows, the one after training in iteration MAX_ITER
    lines = [
        Line(
            np.minimum(series.iterations + 1, run.cfg.SOLVER.MAX_ITER), series.values, name.replace("bbox", "box").replace("/", " "), number
        )
        for number, (name, series) in enumerate(ap_series(run.metrics).items())
    ]
    return _over_iterations("Average precision", lines, ylabel="AP (%)", markers=True)


def _learning_rate_plot(run: Run) -> Plot | None:
    series = run.metrics.get("lr")
    lines = [] if series is None else [Line(series.iterations, series.values)]
    return _over_iterations("Learning rate", lines, ylabel="learning rate")


def _over_iterations(title: str, lines: list[Line], *, ylabel: str, markers: bool = False) -> Plot | None:
    if not lines:
        return None
    alt = f"{title} over the iterations"
    return Plot(title, line_figure(lines, alt=alt, xlabel="iteration", ylabel=ylabel, xlim=(0, None), ylim=(0, None), markers=markers))


def _precision_recall_plot(precision: AveragePrecision, iou: float) -> Plot:
    """The mean over the classes, the classes with the most objects by name, all others faintly."""
    by_size = sorted(range(len(precision.class_names)), key=lambda i: -precision.num_objects[i])
    with_objects = [precision.class_names[i] for i in by_size if precision.num_objects[i]]
    lines = [Line(precision.recalls, precision.precision_at(iou, name), color="faint") for name in with_objects[MAX_NAMED_CLASSES:]]
    lines += [
        Line(precision.recalls, precision.precision_at(iou, name), name, i) for i, name in enumerate(with_objects[:MAX_NAMED_CLASSES])
    ]
    if len(with_objects) > 1:
        lines.append(Line(precision.recalls, precision.precision_at(iou), "mean of all classes", "ink"))
    alt = f"Precision over recall at IoU {iou:g}; AP{iou * 100:.0f} is {precision.ap(iou=iou):.1f}"
    svg = line_figure(lines, alt=alt, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    return Plot(f"IoU {iou:g}: AP{iou * 100:.0f} {precision.ap(iou=iou):.1f}", svg)


def _class_rows(precision: AveragePrecision) -> list[ClassRow]:
    """Best class first, classes without objects last."""
    rows = [
        ClassRow(
            name=name,
            num_objects=count,
            ap=precision.ap(class_name=name),
            ap50=precision.ap(iou=0.5, class_name=name),
            ap75=precision.ap(iou=0.75, class_name=name),
        )
        for name, count in zip(precision.class_names, precision.num_objects, strict=True)
    ]
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row.ap) else row.ap, reverse=True)


def _tasks(ground_truth: COCO, detections: list[dict[str, Any]]) -> list[Task]:
    """Boxes, and what else both ground truth and detections have."""
    annotations = ground_truth.dataset["annotations"]
    return [
        task
        for task, field in FIELDS.items()
        if task == "bbox" or (any(a.get(field) for a in annotations) and any(field in d for d in detections))
    ]


def _limit(cfg: CfgNode, dataset_name: str, ground_truth: COCO, task: Task) -> int:
    return detection_limit(dataset_name, ground_truth.dataset["annotations"], cfg.TEST.DETECTIONS_PER_IMAGE, task)


def _with_objects(ground_truth: COCO) -> list[Any]:
    """Ids of the images with annotations, in the order of the ids."""
    return [image["id"] for image in sorted(ground_truth.dataset["images"], key=id_order) if image["id"] in ground_truth.imgToAnns]


def _results_file(cfg: CfgNode, folder: Path, dataset_name: str) -> Path | None:
    """The dataset's own folder, or Detectron2's common one where there is one test set only."""
    candidates = [folder / "inference" / inference_folder(cfg, dataset_name).name / DETECTIONS_FILE]
    if len(cfg.DATASETS.TEST) == 1:
        candidates.append(folder / "inference" / DETECTIONS_FILE)
    return next((path for path in candidates if path.exists()), None)


def _annotation_file(dataset_name: str, results_folder: Path) -> Path | None:
    """The registered json, or the one that Detectron2's evaluator converted a dataset without json to."""
    registered = MetadataCatalog.get(dataset_name).get("json_file")
    candidates = [Path(registered)] if registered else []
    candidates.append(results_folder / f"{dataset_name}_coco_format.json")
    return next((path for path in candidates if path.exists()), None)


def _image_files(dataset_name: str) -> dict[Any, Path] | Missing:
    """Image file by image id, where the dataset is registered, there and usable."""
    if dataset_name not in DatasetCatalog.list():
        return _not_here(dataset_name)
    try:
        return {record["image_id"]: Path(record["file_name"]) for record in DatasetCatalog.get(dataset_name)}
    except FileNotFoundError:
        return _not_here(dataset_name)
    except DataError as error:
        return Missing(f"{dataset_name} cannot be used: {error}")


def _not_here(dataset_name: str) -> Missing:
    return Missing(f"{dataset_name} is not on this machine. Is DETECTRON2_DATASETS set as it was for the run?")
