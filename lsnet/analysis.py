"""How good masks can be that are made of a few landmarks (LSNet, section 4.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from detkit.data import polygons_of
from detkit.evaluation import AveragePrecision, CocoEvaluation, EvaluationError

from .outlines import contours_of, largest_part

__all__ = ["PAPER_BOUND", "Parts", "contour_bound", "perfect_contours"]

#: "all": every part of a mask has a contour, as in the paper's figures; "largest": only one is described, as the detector learns
Parts = Literal["all", "largest"]

#: mask AP by number of landmarks, on COCO val2017 (section 4.4)
PAPER_BOUND = {18: 89.0, 36: 97.4, 72: 99.2}


def contour_bound(ground_truth: COCO, num_landmarks: int, parts: Parts = "all") -> AveragePrecision:
    """The mask AP of a detector that makes no mistake but to describe each mask by contours of ``num_landmarks`` points.

    Raises:
        EvaluationError: objects without a mask.
    """
    without = [annotation["id"] for annotation in ground_truth.anns.values() if not annotation.get("segmentation")]
    if without:
        raise EvaluationError(f"{len(without)} objects have no mask (annotation {without[0]} is the first): take a dataset with masks.")
    return CocoEvaluation(ground_truth, list(perfect_contours(ground_truth, num_landmarks, parts)), task="segm").average_precision


def perfect_contours(ground_truth: COCO, num_landmarks: int, parts: Parts = "all") -> Iterable[dict[str, Any]]:
    """The objects of a dataset, crowds left out, as detections of score 1 in COCO's result format.

    Objects whose parts are all tiny have the outline of their box.
    """
    for annotation in ground_truth.anns.values():
        if annotation.get("iscrowd", 0):
            continue
        x, y, width, height = annotation["bbox"]
        box = np.array([x, y, x + width, y + height], dtype=np.float64)
        outlines = polygons_of(annotation["segmentation"])
        if parts == "largest" and outlines:
            outlines = [largest_part(outlines)]
        image = ground_truth.imgs[annotation["image_id"]]
        contours = [contour.ravel().tolist() for contour in contours_of(outlines, box, num_landmarks)]
        runs = mask_util.merge(mask_util.frPyObjects(contours, image["height"], image["width"]))
        yield {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "segmentation": runs,
            "bbox": annotation["bbox"],
            "score": 1.0,
        }
