"""Losses between vectors, one value for each anchor point (LSNet, section 3.3 and table 2).

All lengths are in a unit that the caller chooses, relative to the anchor point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from detkit.losses import giou_loss

from .coding import cross_coordinates
from .cross_iou import box_distance_penalty, cross_iou, shape_penalty
from .tasks import LandmarkSet

__all__ = ["CrossIoULoss", "GIoULoss", "SmoothL1Loss", "VectorLoss", "VectorTargets"]


@dataclass(frozen=True)
class VectorTargets:
    """What anchor points should predict.

    Attributes:
        offsets: (..., V + 1, 2) x, y to the landmarks and the box center.
        known: (..., V + 1) bool, False for landmarks without label.
        boxes: (..., 4) xyxy.
    """

    offsets: Tensor
    known: Tensor
    boxes: Tensor


#: from predicted vectors (..., V + 1, 4), targets and what the landmarks are, to a loss (...)
VectorLoss = Callable[[Tensor, VectorTargets, LandmarkSet], Tensor]


class CrossIoULoss:
    """1 - cross-IoU.

    Args:
        form: ``"paper"``: the mean over the vectors (equation 1). ``"official"``: components are grouped as
            :meth:`lsnet.tasks.LandmarkSet.overlap` says, and boxes and contours also have the two penalties of the CIoU loss.
        alpha: of the softened coordinates (appendix A).
    """

    def __init__(self, *, form: Literal["official", "paper"] = "official", alpha: float = 0.2) -> None:
        if form not in ("official", "paper"):
            raise ValueError(f"MODEL.LSNET.LOSS.CROSS_IOU is 'official' or 'paper', not '{form}'.")
        if not 0 <= alpha < 1:
            raise ValueError(f"MODEL.LSNET.LOSS.ALPHA must be at least 0 and less than 1, not {alpha}.")
        self.form = form
        self.alpha = alpha

    def __call__(self, pred: Tensor, targets: VectorTargets, landmarks: LandmarkSet) -> Tensor:
        target = cross_coordinates(targets.offsets, self.alpha)
        if self.form == "paper":
            return 1 - cross_iou(pred, target, num_groups=landmarks.num_vectors, visible=targets.known)
        overlap = landmarks.overlap(pred, target, targets.known)
        if not landmarks.bounds_object:
            return 1 - overlap
        boxes = _boxes(pred, landmarks)
        return 1 - overlap + box_distance_penalty(boxes, targets.boxes) + shape_penalty(boxes, targets.boxes, overlap)


class SmoothL1Loss:
    """Smooth L1 on the components of the softened coordinates: summed over a vector, averaged over the labeled vectors.

    Args:
        beta: where the quadratic part ends, in the unit of the vectors.
        alpha: of the softened coordinates.
    """

    def __init__(self, *, beta: float = 1 / 9, alpha: float = 0.2) -> None:
        self.beta = beta
        self.alpha = alpha

    def __call__(self, pred: Tensor, targets: VectorTargets, landmarks: LandmarkSet) -> Tensor:
        target = cross_coordinates(targets.offsets, self.alpha)
        per_vector = F.smooth_l1_loss(pred, target, beta=self.beta, reduction="none").sum(-1)
        return (per_vector * targets.known).sum(-1) / targets.known.sum(-1).clamp(min=1)


class GIoULoss:
    """1 - GIoU of the boxes that the landmarks make. The landmarks themselves learn nothing from it beyond their box."""

    def __call__(self, pred: Tensor, targets: VectorTargets, landmarks: LandmarkSet) -> Tensor:
        return giou_loss(_boxes(pred, landmarks), targets.boxes)


def _boxes(pred: Tensor, landmarks: LandmarkSet) -> Tensor:
    offsets = landmarks.offsets(pred)
    return landmarks.boxes(offsets[..., :-1, :])
