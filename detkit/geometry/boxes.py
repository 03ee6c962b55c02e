"""Small box arithmetic that Detectron2 and torchvision do not have in batched form. Boxes are xyxy in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["box_areas", "box_centers", "box_sizes", "elementwise_iou", "ltrb_to_boxes", "boxes_to_ltrb", "centerness_of"]


def box_areas(boxes: Tensor, plus_one: float = 0.0) -> Tensor:
    """Areas of boxes (..., 4) in square pixels; ``plus_one`` is added to both sides (legacy convention). Never negative."""
    sides = box_sizes(boxes)
    width, height = (sides + plus_one if plus_one else sides).clamp(min=0).unbind(-1)
    return width * height


def box_centers(boxes: Tensor) -> Tensor:
    """Centers (..., 2), x and y, of boxes (..., 4)."""
    near, far = boxes.split(2, -1)
    return (near + far) / 2


def box_sizes(boxes: Tensor) -> Tensor:
    """Widths and heights (..., 2) of boxes (..., 4), negative where the corners are exchanged."""
    near, far = boxes.split(2, -1)
    return far - near


def elementwise_iou(boxes1: Tensor, boxes2: Tensor, plus_one: float = 0.0) -> Tensor:
    """IoU of each pair of two broadcastable box tensors (..., 4), in [0, 1]; 0 where the union is empty."""
    overlap = torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(boxes1[..., :2], boxes2[..., :2])
    width, height = (overlap + plus_one if plus_one else overlap).clamp(min=0).unbind(-1)
    intersection = width * height
    union = box_areas(boxes1, plus_one) + box_areas(boxes2, plus_one) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def boxes_to_ltrb(boxes: Tensor, points: Tensor) -> Tensor:
    """Signed distances (left, top, right, bottom) from points (..., 2) to the sides of boxes (..., 4), in pixels.

    All four are positive exactly when the point lies strictly inside. Inverse of :func:`ltrb_to_boxes`.
    """
    near, far = boxes.split(2, -1)
    return torch.cat([points - near, far - points], dim=-1)


def ltrb_to_boxes(ltrb: Tensor, points: Tensor) -> Tensor:
    """Boxes (..., 4) from distances (left, top, right, bottom) to points (..., 2). Inverse of :func:`boxes_to_ltrb`."""
    near, far = ltrb.split(2, -1)
    return torch.cat([points - near, points + far], dim=-1)


def centerness_of(ltrb: Tensor) -> Tensor:
    """Center-ness in [0, 1]: ``sqrt(min(l,r)/max(l,r) * min(t,b)/max(t,b))`` (FCOS, equation 3); 0 for points not inside."""
    left_right, top_bottom = ltrb[..., 0::2], ltrb[..., 1::2]
    small = (left_right.amin(-1) * top_bottom.amin(-1)).clamp(min=0)
    large = left_right.amax(-1) * top_bottom.amax(-1)
    inside = (ltrb > 0).all(-1)
    return torch.where(inside, small / torch.where(inside, large, torch.ones_like(large)), torch.zeros_like(large)).sqrt()
