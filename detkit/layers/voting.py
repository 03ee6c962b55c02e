"""Boxes that the candidates around them vote on (PAA, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["voted_boxes"]

#: IoU that a candidate must exceed to vote, as in the official code
_LEAST_IOU = 0.01


def voted_boxes(boxes: Tensor, classes: Tensor, voters: Tensor, voter_scores: Tensor, voter_classes: Tensor, sigma: float) -> Tensor:
    """The mean of the candidates of a detection's class, weighted by score and closeness: ``score * exp(-(1 - IoU)^2 / sigma)``.

    Args:
        boxes: (B, D, 4) detections, xyxy.
        classes: (B, D), -1 for detections that are not there.
        voters: (B, M, 4) candidates, the suppressed ones among them.
        voter_scores: (B, M), negative for candidates that are not there.
        voter_classes: (B, M).
        sigma: how close a candidate has to be to count.

    Returns:
        (B, D, 4); a detection without voters stays as it is.
    """
    voted = []
    for i, there in enumerate(voter_scores >= 0):
        around, scores, kinds = voters[i, there], voter_scores[i, there], voter_classes[i, there]
        overlap = box_iou(boxes[i], around)
        votes = (classes[i][:, None] == kinds) & (overlap > _LEAST_IOU)
        weights = torch.where(votes, (-((1 - overlap) ** 2) / sigma).exp() * scores, 0.0)
        total = weights.sum(1, keepdim=True)
        voted.append(torch.where(total > 0, weights @ around / total.clamp(min=1e-12), boxes[i]))
    return torch.stack(voted)
