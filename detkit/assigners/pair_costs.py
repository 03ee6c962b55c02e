"""What it costs to make a prior positive for an object, for assigners that choose the cheapest. Flat over pairs, (M,)."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.geometry import elementwise_iou

from .soft import PairValues

__all__ = ["MIN_IOU", "dynamic_counts", "focal_costs", "iou_cost", "matching_quality"]

#: lower bound of the IoU in a logarithm
MIN_IOU = 1e-8


def focal_costs(values: PairValues, *, alpha: float = 0.25, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
    """Focal loss of each pair's score as a positive and as a negative."""
    score = values.score
    positive = alpha * (1 - score) ** gamma * values.positive_nll
    return positive, (1 - alpha) * score**gamma * values.negative_nll


def iou_cost(iou: Tensor) -> Tensor:
    """``-ln(IoU)``."""
    return -iou.clamp(min=MIN_IOU).log()


def dynamic_counts(iou: Tensor, ranks: Tensor, gt_index: Tensor, num_gts: int, topk: int) -> Tensor:
    """(num_gts,) int64: how many positives each object should have: the sum of its ``topk`` best IoUs, rounded down, at least 1 (OTA,
    section 3.3, "dynamic k estimation").

    Args:
        iou: (M,) of each pair's predicted box.
        ranks: (M,) of the IoUs within their object, 0 for the highest.
        gt_index, num_gts: object of each pair.
    """
    counted = torch.where(ranks < topk, iou, torch.zeros_like(iou))
    return iou.new_zeros(num_gts).index_add(0, gt_index, counted).long().clamp(min=1)


def matching_quality(values: PairValues, alpha: float = 0.8) -> Tensor:
    """(M,) in [0, 1]: ``score ** (1 - alpha) * IoU ** alpha`` of what is predicted for each pair (DeFCN, section 3.2).

    Args:
        values: of the pairs.
        alpha: in [0, 1], how much the box counts beside the class.
    """
    return values.score ** (1 - alpha) * elementwise_iou(values.boxes, values.gt_boxes) ** alpha
