"""Boxes that cannot be trained on, and their repair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from .errors import Fault

__all__ = ["find_box_faults", "repair_boxes"]

#: pixels a box may stick out of its image before it counts as wrong; rounding in annotation tools makes one
TOLERANCE = 2.0

_NOT_NUMBERS = "box is not four finite numbers"
_EMPTY = "box has zero or negative size"
_OUTSIDE = "box lies outside the image"
_STICKS_OUT = f"box sticks out of the image by more than {TOLERANCE:g} pixels"


def find_box_faults(content: dict[str, Any]) -> Iterator[tuple[int, Fault]]:
    """The faulty boxes of a sound COCO json, with the position of the annotation in the file."""
    images = {image["id"]: image for image in content["images"]}
    for position, annotation in enumerate(content["annotations"]):
        image = images[annotation["image_id"]]
        kind = _box_fault(annotation["bbox"], image["width"], image["height"])
        if kind:
            size = f"{image['width']}x{image['height']}"
            yield position, Fault(kind, f"annotation {annotation['id']} of {image['file_name']}", f"{annotation['bbox']}, image {size}")


def repair_boxes(content: dict[str, Any]) -> dict[str, Any]:
    """A copy in which boxes that stick out end at the border and the other faulty ones, with their annotations, are gone."""
    images = {image["id"]: image for image in content["images"]}
    faulty = dict(find_box_faults(content))
    annotations = []
    for position, annotation in enumerate(content["annotations"]):
        if position not in faulty:
            annotations.append(annotation)
        elif faulty[position].kind == _STICKS_OUT:
            image = images[annotation["image_id"]]
            annotations.append({**annotation, "bbox": _clipped(annotation["bbox"], image["width"], image["height"])})
    return {**content, "annotations": annotations}


def _box_fault(box: Any, width: float, height: float) -> str | None:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in box):
        return _NOT_NUMBERS
    left, top, box_width, box_height = box
    right, bottom = left + box_width, top + box_height
    if box_width <= 0 or box_height <= 0:
        return _EMPTY
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return _OUTSIDE
    if min(left, top, width - right, height - bottom) < -TOLERANCE:
        return _STICKS_OUT
    return None


def _clipped(box: list[float], width: float, height: float) -> list[float]:
    left, top = max(box[0], 0), max(box[1], 0)
    return [left, top, min(box[0] + box[2], width) - left, min(box[1] + box[3], height) - top]
