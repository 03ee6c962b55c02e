"""The cross-IoU of vectors (LSNet, section 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["box_distance_penalty", "cross_iou", "shape_penalty"]

#: keeps quotients finite
EPS = 1e-6


def cross_iou(pred: Tensor, target: Tensor, *, num_groups: int, visible: Tensor | None = None) -> Tensor:
    """How well vectors agree: per group, the sum of the smaller components over the sum of the larger ones; the mean over the groups.

    Entry m is in group ``m % num_groups``. With one group for each vector this is equation 1. The official code takes one group for extreme
    points, groups of points nine places apart for contours, and one group for each axis of each vector for poses.

    Args:
        pred: (..., M, C) non-negative components of M entries.
        target: the same, to be predicted.
        num_groups: 1 to M.
        visible: (..., M) bool; entries that are not visible agree not at all, but count (official code: such an entry's loss is a constant
            without gradient).

    Returns:
        (...) in [0, 1]; multiplying both arguments by a number changes nothing.
    """
    smaller, larger = torch.minimum(pred, target).sum(-1), torch.maximum(pred, target).sum(-1)
    if visible is not None:
        smaller = smaller * visible
    overlap = _group_sums(smaller, num_groups) / _group_sums(larger, num_groups).clamp(min=torch.finfo(larger.dtype).tiny)
    return overlap.mean(-1)


def _group_sums(values: Tensor, num_groups: int) -> Tensor:
    """(..., M) to (..., num_groups)."""
    rows = -(-values.shape[-1] // num_groups)
    padded = torch.nn.functional.pad(values, (0, rows * num_groups - values.shape[-1]))
    return padded.unflatten(-1, (rows, num_groups)).sum(-2)


def box_distance_penalty(pred: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the centers over the squared diagonal of the hull, for boxes (..., 4) xyxy (Zheng et al., Distance-IoU Loss,
    AAAI 2020, equation 7). In the official code of LSNet, not in its paper."""
    hull = torch.maximum(pred[..., 2:], target[..., 2:]) - torch.minimum(pred[..., :2], target[..., :2])
    centers = (pred[..., :2] + pred[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    return centers.square().sum(-1) / (hull.clamp(min=0).square().sum(-1) + EPS)


def shape_penalty(pred: Tensor, target: Tensor, overlap: Tensor) -> Tensor:
    """Difference of the aspect ratios of boxes (..., 4), weighted by itself and by ``overlap`` (...), here the cross-IoU (Zheng et al.,
    equations 8 to 10; the weight carries gradient). In the official code of LSNet, not in its paper."""
    angle = torch.atan(_aspect(target)) - torch.atan(_aspect(pred))
    difference = 4 / math.pi**2 * angle.square()
    return difference.square() / (1 - overlap + difference).clamp(min=EPS)


def _aspect(boxes: Tensor) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] / (sides[..., 1] + EPS)
