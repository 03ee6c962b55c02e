"""ATSS label assignment on the boxes that a detector predicts (Zhang et al., CVPR 2020, section 3.1), where these stand for anchors: the
second stage of LSNet is assigned on the boxes that the first one predicts at every location."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.geometry import Priors, box_centers

from .atss import ATSSAssigner, Candidates
from .base import AssignContext
from .registry import ASSIGNER_REGISTRY

__all__ = ["PredictedATSSAssigner", "nearest_predictions"]


@ASSIGNER_REGISTRY.register()
class PredictedATSSAssigner(ATSSAssigner):
    """As :class:`detkit.assigners.ATSSAssigner`, with ``Predictions.boxes`` in the place of anchors, wherever their centers lie.

    Memory and time: all distances between predictions and objects.
    """

    needs_predictions = True
    needs_anchors = False

    def candidates(self, context: AssignContext, padding: Tensor | None) -> Candidates:
        boxes = context.given_predictions.boxes
        return nearest_predictions(boxes, context.gt.boxes, context.grid_priors, self.topk, padding)


def nearest_predictions(boxes: Tensor, gt_boxes: Tensor, priors: Priors, k: int, padding: Tensor | None = None) -> Candidates:
    """The ``k`` boxes of each level whose centers are nearest to the center of each object; all of a level that has fewer.

    Args:
        boxes: (B, P, 4) xyxy in pixels.
        gt_boxes: (B, G, 4).
        priors: say which boxes belong to which level.
        k: per level, times the number of anchors per location.
        padding: (B, P) bool, boxes that take no part.

    Returns:
        candidates with M up to L * k * A.
    """
    centers, gt_centers = box_centers(boxes), box_centers(gt_boxes)
    found, near, end = [], [], 0
    for count in priors.per_level:
        start, end = end, end + count
        distances = torch.cdist(gt_centers, centers[:, start:end], compute_mode="donot_use_mm_for_euclid_dist")  # (B, G, P of level)
        if padding is not None:
            distances.masked_fill_(padding[:, None, start:end], torch.inf)
        distance, place = distances.topk(min(k * priors.anchors_per_point, count), dim=2, largest=False)
        found.append(place + start)
        near.append(distance)
    index = torch.cat(found, dim=2)  # (B, G, M)
    rows = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    valid = torch.cat(near, dim=2).isfinite()
    return Candidates(index.permute(2, 0, 1), boxes[rows, index].permute(2, 0, 1, 3), valid.permute(2, 0, 1))
