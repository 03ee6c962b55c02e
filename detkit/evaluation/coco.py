"""Average precision, precision-recall curves and matches of detections, computed by pycocotools.

Scores are in percent, as in the papers; what cannot be computed (a class or size without objects) is NaN.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.data import class_names

from .files import EvaluationError
from .numbering import NumberedGroundTruth, Task

__all__ = ["MOST_DETECTIONS", "AveragePrecision", "CocoEvaluation", "Task"]

#: COCO counts as many detections of a class in an image
MOST_DETECTIONS: dict[Task, int] = {"bbox": 100, "segm": 100, "keypoints": 20}
_COCO_KEYPOINTS = 17


@dataclass(frozen=True)
class AveragePrecision:
    """Interpolated precision at COCO's recall levels, from which every AP is a mean.

    Args:
        class_names: of the class axis. One entry ("all") where classes are not told apart.
        num_objects: per class, without crowds.
        iou_thresholds: (T,) in [0, 1]; for keypoints the OKS.
        recalls: (R,) in [0, 1].
        area_names: of the area axis, "all" first.
        precision: (T, R, K, A) in [0, 1], NaN where a class has no object of the area.
    """

    class_names: tuple[str, ...]
    num_objects: tuple[int, ...]
    iou_thresholds: NDArray[np.float64]
    recalls: NDArray[np.float64]
    area_names: tuple[str, ...]
    precision: NDArray[np.float64]

    def ap(self, *, iou: float | None = None, area: str = "all", class_name: str | None = None) -> float:
        """AP in percent at one IoU threshold or averaged over all; of one class or averaged over all; NaN without objects."""
        picked = self.precision[:, :, :, self.area_names.index(area)]
        if iou is not None:
            picked = picked[self._iou_index(iou), None]
        if class_name is not None:
            picked = picked[:, :, self.class_names.index(class_name), None]
        return _mean(picked) * 100

    def table(self) -> dict[str, float]:
        """The columns of the papers' tables in percent: AP, AP50, AP75 and the AP by size (APs, APm, APl)."""
        scores = {"AP": self.ap(), "AP50": self.ap(iou=0.5), "AP75": self.ap(iou=0.75)}
        return scores | {f"AP{area[0]}": self.ap(area=area) for area in self.area_names[1:]}

    def precision_at(self, iou: float, class_name: str | None = None) -> NDArray[np.float64]:
        """The precision-recall curve (R,), over :attr:`recalls`: of one class, or the mean of all classes that have objects."""
        curves = self.precision[self._iou_index(iou), :, :, 0]
        if class_name is not None:
            return curves[:, self.class_names.index(class_name)]
        with_objects = np.array(self.num_objects) > 0
        return curves[:, with_objects].mean(1) if with_objects.any() else np.full(len(self.recalls), np.nan)

    def _iou_index(self, iou: float) -> int:
        found = np.flatnonzero(np.isclose(self.iou_thresholds, iou))
        if not len(found):
            raise ValueError(f"No precision was computed at IoU {iou}. There are {np.round(self.iou_thresholds, 2).tolist()}.")
        return int(found[0])


class CocoEvaluation:
    """COCO's evaluation of one set of detections, run once and looked at from several sides.

    Args:
        ground_truth: see :func:`detkit.evaluation.read_ground_truth`; its ids may be any numbers and texts.
        detections: see :func:`detkit.evaluation.read_detections`.
        task: what overlaps: boxes, masks, or keypoints by OKS.
        keypoint_sigmas: one per keypoint, ``cfg.TEST.KEYPOINT_OKS_SIGMAS``; empty: COCO's 17.
        max_detections: of a class in an image, best first, that count; None: COCO's :data:`MOST_DETECTIONS`.

    Raises:
        EvaluationError: objects or detections have another number of keypoints than there are sigmas.
    """

    def __init__(
        self,
        ground_truth: COCO,
        detections: list[dict[str, Any]],
        *,
        task: Task = "bbox",
        keypoint_sigmas: Sequence[float] = (),
        max_detections: int | None = None,
    ) -> None:
        if task == "keypoints":
            _check_keypoints(ground_truth.dataset["annotations"], detections, len(keypoint_sigmas) or _COCO_KEYPOINTS)
        self.ground_truth = ground_truth
        self.numbered = NumberedGroundTruth.of(ground_truth.dataset, task, len(keypoint_sigmas) or _COCO_KEYPOINTS)
        self.coco_eval = COCOeval(self.numbered.coco, self.numbered.detections(detections, task), task)
        if keypoint_sigmas:
            self.coco_eval.params.kpt_oks_sigmas = np.array(keypoint_sigmas)
        self.max_detections = max_detections or MOST_DETECTIONS[task]
        self.coco_eval.params.maxDets = sorted({MOST_DETECTIONS[task], self.max_detections})
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco_eval.evaluate()
            self.coco_eval.accumulate()

    @cached_property
    def average_precision(self) -> AveragePrecision:
        """At the limit of detections that was asked for."""
        return self.at_limit(self.max_detections)

    def at_limit(self, max_detections: int) -> AveragePrecision:
        """At COCO's limit of detections, or the one that was asked for."""
        params = self.coco_eval.params
        precision = self.coco_eval.eval["precision"][..., params.maxDets.index(max_detections)]
        return AveragePrecision(
            class_names=tuple(class_names(self.ground_truth.dataset["categories"])),
            num_objects=tuple(self._num_objects(category) for category in params.catIds),
            iou_thresholds=params.iouThrs,
            recalls=params.recThrs,
            area_names=tuple(params.areaRngLbl),
            precision=np.where(precision < 0, np.nan, precision),
        )

    def _num_objects(self, category_number: int) -> int:
        return len(self.numbered.coco.getAnnIds(catIds=[category_number], iscrowd=False))


def _check_keypoints(annotations: Sequence[dict[str, Any]], detections: Sequence[dict[str, Any]], num_sigmas: int) -> None:
    for owner, items in (("objects", annotations), ("detections", detections)):
        counts = {len(item["keypoints"]) // 3 for item in items if item.get("keypoints")} - {num_sigmas}
        if counts:
            raise EvaluationError(
                f"The {owner} have {min(counts)} keypoints, but OKS has {num_sigmas} sigmas. Set TEST.KEYPOINT_OKS_SIGMAS to one number "
                "per keypoint (COCO's lie between 0.025 for eyes and 0.107 for hips)."
            )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
