"""Non-maximum suppression of a whole batch as one operator whose output has the shape of its input.

An operator of our own, ``detkit::nms_mask``, so that ``torch.compile`` and ``torch.export`` see no size that depends on data. Exported
programs get torchvision's or ONNX's operator in its place, see :mod:`detkit.export`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

__all__ = ["nms_mask", "nms_mask_by_offsets"]


@torch.library.custom_op("detkit::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes are kept by non-maximum suppression within each image and class. Of equal scores the first box counts as the better.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, N), negative for boxes that are not there.
        classes: (B, N) int64.
        iou_threshold: IoU above which the worse of two boxes of a class goes.

    Returns:
        (B, N) bool.
    """
    return nms_mask_by_offsets(boxes, scores, classes, iou_threshold)


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@nms_mask.register_kernel("cpu")
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    # nothing waits for a CPU: only the boxes that are there are compared, image by image
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i, there in enumerate(scores >= 0):
        index = there.nonzero().squeeze(1)
        kept = batched_nms(boxes[i, index].float(), scores[i, index], classes[i, index], iou_threshold)
        keep[i, index[kept]] = True
    return keep


def nms_mask_by_offsets(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """``nms_mask`` by a single call of torchvision's operator, on boxes that are moved apart by image and class.

    In float64, in which the moved boxes keep all digits of their coordinates. All boxes that are not there become one and the same box, so
    that the first of them removes the others.
    """
    there, batch = scores >= 0, scores.shape[0]  # len() would make the batch a constant of exported programs
    images = torch.arange(batch, device=scores.device)[:, None]
    group = torch.where(there, classes * batch + images + 1, 0)
    wide = boxes.double()
    lowest = wide.amin()
    spacing = wide.amax() - lowest + 2
    unit = (torch.arange(4, device=boxes.device) >= 2).double()  # 0, 0, 1, 1
    moved = torch.where(there[..., None], wide - lowest, unit) + (group * spacing)[..., None]
    kept = nms(moved.flatten(0, 1), scores.flatten().double(), _float32_threshold(iou_threshold))
    return torch.zeros_like(there).flatten().index_fill(0, kept, 1).view_as(there) & there


def _float32_threshold(threshold: float) -> float:
    """The threshold at which float64 IoU is to be compared so that quotients are taken as greater exactly where float32 takes them so."""
    above = np.float32(threshold)
    if float(above) <= threshold:
        above = np.nextafter(above, np.float32(math.inf))
    below = np.nextafter(above, np.float32(-math.inf))
    return (float(below) + float(above)) / 2
