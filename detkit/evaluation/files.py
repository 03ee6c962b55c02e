"""Reading ground truth and detections in COCO's json formats, with errors that name the file."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from detkit.data import DataError, is_box, read_coco_json, require_regular_file

__all__ = [
    "DETECTIONS_FILE",
    "EvaluationError",
    "coco_of",
    "read_detections",
    "read_ground_truth",
    "read_json",
    "read_unreadable",
    "write_unreadable",
]

#: name of the file with the detections that an evaluation leaves, as Detectron2's COCOEvaluator calls it
DETECTIONS_FILE = "coco_instances_results.json"
#: beside it, where images could not be read and were left out: a list of their ids
_UNREADABLE_FILE = "unreadable_images.json"


class EvaluationError(ValueError):
    """Ground truth or detections that cannot be used. The message names the file and the remedy."""


def read_ground_truth(path: str | os.PathLike[str]) -> COCO:
    """The annotations of a dataset in COCO format, under the ids of the file. They are shared: do not change them.

    Raises:
        EvaluationError: the file is missing, not json, or not in COCO's format.
    """
    try:
        content = read_coco_json(path)
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if "annotations" not in content:
        raise EvaluationError(f"{path}: there are no 'annotations' in it, so detections have nothing to be compared with.")
    return coco_of(content)


def read_detections(path: str | os.PathLike[str], ground_truth: COCO) -> list[dict[str, Any]]:
    """Detections in COCO's result format, as evaluations write them: a list of ``image_id, category_id, bbox (xywh), score, ...``.

    Raises:
        EvaluationError: the file is missing, not json, no list of detections, or of images and categories that are not in the ground truth.
    """
    detections = read_json(path)
    if not isinstance(detections, list):
        raise EvaluationError(f"{path}: COCO results are a json list, this is a {type(detections).__name__}.")
    images, categories = set(ground_truth.getImgIds()), set(ground_truth.getCatIds())
    for number, detection in enumerate(detections):
        missing = {"image_id", "category_id", "bbox", "score"} - set(detection if isinstance(detection, dict) else ())
        if missing:
            raise EvaluationError(f"{path}: detection {number} lacks {', '.join(sorted(missing))}.")
        if not _is_name(detection["image_id"]) or detection["image_id"] not in images:
            raise EvaluationError(
                f"{path}: detection {number} belongs to image {detection['image_id']}, which the ground truth does not have. "
                "Were the detections made on another dataset?"
            )
        if not _is_name(detection["category_id"]) or detection["category_id"] not in categories:
            known = ", ".join(map(str, list(ground_truth.cats)[:10]))
            raise EvaluationError(f"{path}: detection {number} has category {detection['category_id']}, the ground truth knows {known}.")
        if not is_box(detection["bbox"]) or not is_box([detection["score"]] * 4):
            raise EvaluationError(f"{path}: detection {number} has a box or a score that is not made of finite numbers.")
    return detections


def _is_name(value: Any) -> bool:
    return isinstance(value, (int, float, str))


def write_unreadable(folder: Path, image_ids: Collection[Any]) -> None:
    """Notes beside the detections which images of the dataset were left out; no file where there are none."""
    path = folder / _UNREADABLE_FILE
    path.unlink(missing_ok=True)
    if image_ids:
        path.write_text(json.dumps(sorted(image_ids, key=str)), encoding="utf-8")


def read_unreadable(folder: str | os.PathLike[str]) -> list[Any]:
    """The ids of the images that the evaluation in a folder has left out.

    Raises:
        EvaluationError: the file is broken.
    """
    path = Path(folder, _UNREADABLE_FILE)
    if not path.exists():
        return []
    image_ids = read_json(path)
    if not isinstance(image_ids, list) or not all(map(_is_name, image_ids)):
        raise EvaluationError(f"{path}: not a list of image ids. Evaluate again, or move the file away.")
    return image_ids


def coco_of(content: dict[str, Any]) -> COCO:
    """The content of an annotation file, indexed by pycocotools without a word on the console."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    return coco


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a json file that a run has left, which may be cut off, or have been put there by anybody.

    Raises:
        EvaluationError: there is none, or it cannot be read.
    """
    try:
        require_regular_file(path)
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file.") from None
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error}. Evaluate again, or move it away.") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not json ({error}). Is the file cut off? Evaluate again, or move it away.") from None
