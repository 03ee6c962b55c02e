"""Reading ground truth and detections in COCO's json formats, with errors that name the file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

__all__ = ["RESULTS_FILE", "EvaluationError", "coco_of", "read_detections", "read_ground_truth"]

#: name of the file with the detections that an evaluation leaves, Detectron2's COCOEvaluator and ours alike
RESULTS_FILE = "coco_instances_results.json"


class EvaluationError(ValueError):
    """Ground truth or detections that cannot be used. The message names the file and the remedy."""


def read_ground_truth(path: str | Path) -> COCO:
    """The annotations of a dataset in COCO format.

    Raises:
        EvaluationError: file missing, not json, or without ``images``, ``annotations`` or ``categories``.
    """
    content = _read_json(Path(path))
    if not isinstance(content, dict):
        raise EvaluationError(f"{path}: a COCO annotation file is a json object, this is a {type(content).__name__}.")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise EvaluationError(f"{path}: not a COCO annotation file, the lists {missing} are missing.")
    return coco_of(content)


def read_detections(path: str | Path, ground_truth: COCO) -> list[dict[str, Any]]:
    """Detections in COCO's result format, as ``COCOEvaluator`` writes them: a list of ``image_id, category_id, bbox (xywh), score, ...``.

    Raises:
        EvaluationError: file missing, not json, no list of detections, or of images and categories that are not in the ground truth.
    """
    detections = _read_json(Path(path))
    if not isinstance(detections, list):
        raise EvaluationError(f"{path}: COCO results are a json list, this is a {type(detections).__name__}.")
    images, categories = set(ground_truth.getImgIds()), set(ground_truth.getCatIds())
    for number, detection in enumerate(detections):
        missing = {"image_id", "category_id", "bbox", "score"} - set(detection if isinstance(detection, dict) else ())
        if missing:
            raise EvaluationError(f"{path}: detection {number} lacks {', '.join(sorted(missing))}.")
        if detection["image_id"] not in images:
            raise EvaluationError(
                f"{path}: detection {number} belongs to image {detection['image_id']}, which the ground truth does not have. "
                "Were the detections made on another dataset?"
            )
        if detection["category_id"] not in categories:
            raise EvaluationError(
                f"{path}: detection {number} has category {detection['category_id']}, the ground truth knows {sorted(categories)}."
            )
    return detections


def detections_as_coco(ground_truth: COCO, detections: list[dict[str, Any]], task: str) -> COCO:
    """Detections indexed for pycocotools; none at all are welcome, unlike in ``COCO.loadRes``.

    For masks the boxes are left out, so that objects are sized by the area of their mask, as Detectron2 does.
    """
    if not detections:
        return coco_of({**ground_truth.dataset, "annotations": []})
    copies = [{key: value for key, value in d.items() if task != "segm" or key != "bbox"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        return ground_truth.loadRes(copies)


def coco_of(content: dict[str, Any]) -> COCO:
    """The content of an annotation file, indexed by pycocotools without a word on the console."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    return coco


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EvaluationError(f"{path}: not json ({error}). Is the file cut off? Write it again.") from None
