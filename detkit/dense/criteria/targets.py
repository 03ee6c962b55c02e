"""What every prior should predict, looked up from a hard assignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detkit.geometry import Priors, boxes_to_ltrb, centerness_of
from detkit.structures import GroundTruth, HardAssignment

__all__ = ["DenseTargets"]


@dataclass(frozen=True)
class DenseTargets:
    """Targets of every prior; shapes as in :mod:`detkit.assigners.base`.

    Attributes:
        labels: (B, P) int64, class or K for background.
        positive: (B, P) bool.
        boxes: (B, P, 4) xyxy in pixels; a dummy box of one stride around the prior's location where not positive.
        centerness: (B, P) in [0, 1]; 0 where not positive.
        ignore: (B, P) bool or None.
    """

    labels: Tensor
    positive: Tensor
    boxes: Tensor
    centerness: Tensor
    ignore: Tensor | None

    @classmethod
    def from_assignment(cls, assignment: HardAssignment, gt: GroundTruth, priors: Priors, num_classes: int) -> DenseTargets:
        """Looks up class and box of the assigned objects."""
        positive = assignment.gt_index >= 0
        around = torch.cat([priors.points - priors.strides[:, None] / 2, priors.points + priors.strides[:, None] / 2], dim=-1)
        if gt.boxes.shape[1] == 0:
            labels = torch.full_like(assignment.gt_index, num_classes)
            boxes = around.expand(*positive.shape, 4)
        else:
            index = assignment.gt_index.clamp(min=0)
            labels = torch.where(positive, gt.classes.gather(1, index), num_classes)
            boxes = gt.boxes.gather(1, index[..., None].expand(-1, -1, 4))
            boxes = torch.where(positive[..., None], boxes, around)
        centerness = centerness_of(boxes_to_ltrb(boxes, priors.points)) * positive
        return cls(labels, positive, boxes, centerness, assignment.ignore)
