"""ATSS label assignment on the boxes that a detector predicts (Zhang et al., CVPR 2020, section 3.1), where these stand for anchors: the
second stage of LSNet looks at what the first one makes of every location."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from detkit.geometry import Priors, elementwise_iou
from detkit.structures import HardAssignment

from .atss import ATSSAssigner, Candidates, center_inside, highest_iou_wins, select_by_iou_statistics
from .base import AssignContext
from .registry import ASSIGNER_REGISTRY
from .windows import padding_mask

__all__ = ["PredictedATSSAssigner", "nearest_predictions"]


@ASSIGNER_REGISTRY.register()
class PredictedATSSAssigner(ATSSAssigner):
    """As :class:`detkit.assigners.ATSSAssigner`, with ``Predictions.boxes`` in the place of anchors, wherever their centers lie.

    Memory and time: all distances between predictions and objects.
    """

    needs_predictions = True
    needs_anchors = False

    @torch.no_grad()
    def forward(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.grid_priors
        beyond = padding_mask(priors, context.valid_sizes)
        index, boxes, valid = nearest_predictions(context.given_predictions.boxes, gt.boxes, priors, self.topk, beyond)
        ious = elementwise_iou(boxes, gt.boxes, priors.plus_one)
        positive = select_by_iou_statistics(ious, valid) & center_inside(boxes, gt.boxes) & gt.valid
        return HardAssignment(highest_iou_wins(index, ious, positive, priors.num_priors), beyond)


def nearest_predictions(boxes: Tensor, gt_boxes: Tensor, priors: Priors, k: int, beyond: Tensor | None = None) -> Candidates:
    """The ``k`` boxes of each level whose centers are nearest to the center of each object; all of a level that has fewer.

    Args:
        boxes: (B, P, 4) xyxy in pixels.
        gt_boxes: (B, G, 4).
        priors: say which boxes belong to which level.
        k: per level, times the number of anchors per location.
        beyond: (B, P) bool, boxes that take no part.

    Returns:
        candidates with M up to L * k * A.
    """
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    gt_centers = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2
    found, near = [], []
    starts = [start * priors.anchors_per_point for start in priors.grid.level_starts]
    for start, end in pairwise(starts):
        distances = torch.cdist(gt_centers, centers[:, start:end], compute_mode="donot_use_mm_for_euclid_dist")  # (B, G, P of level)
        if beyond is not None:
            distances.masked_fill_(beyond[:, None, start:end], torch.inf)
        distance, place = distances.topk(min(k * priors.anchors_per_point, end - start), dim=2, largest=False)
        found.append(place + start)
        near.append(distance)
    index = torch.cat(found, dim=2)  # (B, G, M)
    rows = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    valid = torch.cat(near, dim=2).isfinite()
    return Candidates(index.permute(2, 0, 1), boxes[rows, index].permute(2, 0, 1, 3), valid.permute(2, 0, 1))
