"""Losses on the overlap of pairs of boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.geometry import box_areas

from .generalized_iou import giou_loss_of_pairs

__all__ = ["paired_iou", "iou_loss", "linear_iou_loss", "giou_loss"]


def paired_iou(pred: Tensor, target: Tensor, *, offset: float = 0.0, eps: float = 1e-6) -> Tensor:
    """IoU of each pair, in [0, 1].

    Args:
        pred, target: (..., 4) xyxy, any unit.
        offset: added to intersection and union, as tianzhi0549/FCOS and AdelaiDet do with 1. This keeps the IoU above zero without
            overlap and makes it depend on the unit.
        eps: lower bound of the union where ``offset`` is 0.

    Returns:
        (...) IoUs.
    """
    intersection, union = _intersection_union(pred, target)
    return (intersection + offset) / (union + offset if offset else union.clamp(min=eps))


def iou_loss(pred: Tensor, target: Tensor, *, offset: float = 0.0, eps: float = 1e-6) -> Tensor:
    """``-log(IoU)`` of each pair (UnitBox, equation 3; FCOS, equation 2).

    Args:
        pred, target, offset: see :func:`paired_iou`.
        eps: lower bound of the IoU where ``offset`` is 0 (mmdetection's value).

    Returns:
        (...) losses >= 0, not reduced.
    """
    iou = paired_iou(pred, target, offset=offset, eps=eps)
    return -(iou if offset else iou.clamp(min=eps)).log()


def linear_iou_loss(pred: Tensor, target: Tensor, *, offset: float = 0.0) -> Tensor:
    """``1 - IoU`` of each pair (AdelaiDet's ``linear_iou``).

    Args:
        pred, target, offset: see :func:`paired_iou`.

    Returns:
        (...) losses in [0, 1], not reduced.
    """
    return 1 - paired_iou(pred, target, offset=offset)


def giou_loss(pred: Tensor, target: Tensor, *, offset: float = 0.0, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` of each pair (Rezatofighi et al., CVPR 2019).

    Example::

        >>> giou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 4.0]])).tolist()
        [0.5]

    Args:
        pred, target: (..., 4) xyxy, any unit.
        offset: added to intersection and union of the IoU term alone, as tianzhi0549/FCOS and AdelaiDet do with 1.
        eps: keeps the quotients finite.

    Returns:
        (...) losses in [0, 2], not reduced.
    """
    if pred.ndim == 2 and pred.shape == target.shape and pred.requires_grad and not target.requires_grad and torch.is_grad_enabled():
        return giou_loss_of_pairs(pred, target, offset=offset, eps=eps)
    intersection, union = _intersection_union(pred, target)
    (near1, far1), (near2, far2) = pred.split(2, -1), target.split(2, -1)
    width, height = (torch.maximum(far1, far2) - torch.minimum(near1, near2)).clamp(min=0).unbind(-1)
    hull = width * height
    iou = (intersection + offset) / (union + (offset or eps))
    return 1 - iou + (hull - union) / (hull + eps)


def _intersection_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    (near1, far1), (near2, far2) = boxes1.split(2, -1), boxes2.split(2, -1)
    width, height = (torch.minimum(far1, far2) - torch.maximum(near1, near2)).clamp(min=0).unbind(-1)
    intersection = width * height
    return intersection, box_areas(boxes1) + box_areas(boxes2) - intersection
