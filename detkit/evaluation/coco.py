"""Average precision, precision-recall curves and matches of detections, computed by pycocotools.

Scores are in percent, as in the papers; what cannot be computed (a class or size without objects) is NaN.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .files import detections_as_coco

__all__ = ["AveragePrecision", "CocoEvaluation", "Task"]

Task = Literal["bbox", "segm", "keypoints"]


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
        ground_truth: see :func:`detkit.evaluation.read_ground_truth`.
        detections: see :func:`detkit.evaluation.read_detections`.
        task: what overlaps: boxes, masks, or keypoints by OKS.
        keypoint_sigmas: one per keypoint, ``cfg.TEST.KEYPOINT_OKS_SIGMAS``; empty: COCO's 17.
    """

    def __init__(
        self,
        ground_truth: COCO,
        detections: list[dict[str, Any]],
        *,
        task: Task = "bbox",
        keypoint_sigmas: Sequence[float] = (),
    ) -> None:
        self.ground_truth = ground_truth
        self.coco_eval = COCOeval(ground_truth, detections_as_coco(ground_truth, detections, task), task)
        if keypoint_sigmas:
            self.coco_eval.params.kpt_oks_sigmas = np.array(keypoint_sigmas)
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco_eval.evaluate()
            self.coco_eval.accumulate()

    @cached_property
    def average_precision(self) -> AveragePrecision:
        params = self.coco_eval.params
        precision = self.coco_eval.eval["precision"][..., -1]
        return AveragePrecision(
            class_names=tuple(category["name"] for category in self.ground_truth.loadCats(params.catIds)),
            num_objects=tuple(self._num_objects(category) for category in params.catIds),
            iou_thresholds=params.iouThrs,
            recalls=params.recThrs,
            area_names=tuple(params.areaRngLbl),
            precision=np.where(precision < 0, np.nan, precision),
        )

    def _num_objects(self, category_id: int) -> int:
        return len(self.ground_truth.getAnnIds(catIds=[category_id], iscrowd=False))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
