"""Boxes that cannot be trained on, and their repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataFault
from .schema import Findings, is_box, shown

__all__ = ["box_array", "find_box_faults", "most_objects", "repair_boxes"]

#: pixels a box may stick out of its image before it counts as wrong; rounding in annotation tools makes one
TOLERANCE = 2.0

_NOT_NUMBERS = "box is not four finite numbers"
_EMPTY = "box has zero or negative size"
_OUTSIDE = "box lies outside the image"
_STICKS_OUT = f"box sticks out of the image by more than {TOLERANCE:g} pixels"


def find_box_faults(content: dict[str, Any], findings: Findings | None = None) -> dict[int, DataFault]:
    """The faulty boxes of a COCO json, by the position of the annotation in the file.

    Args:
        findings: of the file; entries that have other faults are passed over.
    """
    findings = findings or Findings()
    images = [image for _, image in findings.usable("images", content["images"])]
    number_of = {image["id"]: number for number, image in enumerate(images)}
    annotations, positions = content.get("annotations", []), None
    if findings.unusable:
        positions = [i for i, annotation in findings.usable("annotations", annotations) if annotation["image_id"] in number_of]
        annotations = [annotations[position] for position in positions]
    boxes, known = box_array(annotations)
    sizes = np.array([(image["width"], image["height"]) for image in images], dtype=np.float64).reshape(-1, 2)
    numbers = np.array([number_of[annotation["image_id"]] for annotation in annotations], dtype=np.intp)
    faulty: dict[int, DataFault] = {}
    for kind, wrong in _wrong_boxes(boxes, known, sizes[numbers]):
        for index in np.flatnonzero(wrong).tolist():
            annotation, image = annotations[index], images[numbers[index]]
            detail = f"{shown(annotation['bbox'])}, image {image['width']}x{image['height']}"
            faulty[index if positions is None else positions[index]] = DataFault(
                kind, f"annotation {annotation['id']} of {image['file_name']}", detail
            )
    return dict(sorted(faulty.items()))


def box_array(annotations: list[dict[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The boxes (N, 4) of annotations as x, y, width, height, and which of them are four finite numbers (N,); the others are NaN."""
    values = [annotation["bbox"] for annotation in annotations]
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4} and set(map(type, chain.from_iterable(values))) <= {int, float}:
        try:
            boxes = np.fromiter(chain.from_iterable(values), dtype=np.float64, count=4 * len(values)).reshape(-1, 4)
            return boxes, np.isfinite(boxes.sum(axis=1))
        except OverflowError:  # a whole number beyond 1e308
            pass
    known = np.array([is_box(value) for value in values], dtype=bool)
    boxes = np.array([value if good else [np.nan] * 4 for value, good in zip(values, known, strict=True)], dtype=np.float64)
    return boxes.reshape(-1, 4), known


def _wrong_boxes(boxes: NDArray[np.float64], known: NDArray[np.bool_], limits: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Which boxes have which fault; at most one each."""
    corner, size = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        end = corner + size
        empty = known & (size <= 0).any(axis=1)
        outside = known & ~empty & ((end <= 0) | (corner >= limits)).any(axis=1)
        sticks_out = known & ~empty & ~outside & (np.minimum(corner, limits - end) < -TOLERANCE).any(axis=1)
    return [(_NOT_NUMBERS, ~known), (_EMPTY, empty), (_OUTSIDE, outside), (_STICKS_OUT, sticks_out)]


def most_objects(annotations: Sequence[dict[str, Any]], *, of_one_class: bool = False) -> int:
    """How many objects, crowds aside, the image has that has most."""
    objects = (annotation for annotation in annotations if not annotation.get("iscrowd"))
    counts = Counter((a["image_id"], a["category_id"]) if of_one_class else a["image_id"] for a in objects)
    return max(counts.values(), default=0)


def repair_boxes(content: dict[str, Any], faulty: dict[int, DataFault]) -> dict[str, Any]:
    """A copy in which boxes that stick out end at the border and the other faulty ones, with their annotations, are gone."""
    images = {image["id"]: image for image in content["images"]}
    annotations = []
    for position, annotation in enumerate(content["annotations"]):
        if position not in faulty:
            annotations.append(annotation)
        elif faulty[position].kind == _STICKS_OUT:
            image = images[annotation["image_id"]]
            annotations.append({**annotation, "bbox": _clipped(annotation["bbox"], image["width"], image["height"])})
    return {**content, "annotations": annotations}


def _clipped(box: list[float], width: float, height: float) -> list[float]:
    left, top = max(box[0], 0), max(box[1], 0)
    return [left, top, min(box[0] + box[2], width) - left, min(box[1] + box[3], height) - top]
