"""Why a detection is false, in the kinds of TIDE (Bolya et al., ECCV 2020, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ["Mistake", "why_false"]

Mistake = Literal["duplicate", "badly placed", "wrong class", "wrong class and badly placed", "background"]


def why_false(detection: dict[str, Any], annotations: Sequence[dict[str, Any]], *, iou: float = 0.5, background: float = 0.1) -> Mistake:
    """The kind of a detection that COCO's matching found false at ``iou``.

    Args:
        detection: in COCO's result format.
        annotations: the objects of its image, in COCO's format.
        iou: from this box overlap on a detection lies where an object is.
        background: up to this overlap it lies on the background.
    """
    if not annotations:
        return "background"
    overlaps = coco_mask.iou([detection["bbox"]], [a["bbox"] for a in annotations], [0] * len(annotations))[0]
    same_class = np.array([a["category_id"] == detection["category_id"] for a in annotations])
    of_class = overlaps[same_class].max(initial=0.0)
    of_others = overlaps[~same_class].max(initial=0.0)
    if of_class >= iou:
        return "duplicate"
    if of_others >= iou:
        return "wrong class"
    if of_class > background:
        return "badly placed"
    return "wrong class and badly placed" if of_others > background else "background"
