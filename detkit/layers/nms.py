"""Non-maximum suppression of a whole batch as one operator whose output has the shape of its input.

An operator of our own, ``detkit::nms_mask``, so that ``torch.compile`` and ``torch.export`` see no size that depends on data. Exported
programs get torchvision's or ONNX's operator in its place, see :mod:`detkit.export`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from .ranking import best_indices

__all__ = ["nms_mask", "nms_mask_by_offsets"]


#: of the boxes that are wanted, so many times more are compared at first: most are kept where objects do not crowd
_AHEAD = 4
#: extent in pixels from which on boxes are not moved apart, but compared class by class: moved farther, they would lose digits
_FAR = 1e6
#: the largest coordinate in pixels when boxes are moved: with 1000 groups 5 of the 16 digits of float64 remain behind the point
_WILD = 1e7


@torch.library.custom_op("detkit::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, wanted: int = 0) -> Tensor:
    """Which boxes are kept by non-maximum suppression within each image and class. Of equal scores the first box counts as the better.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, N), negative for boxes that are not there.
        classes: (B, N) int64.
        iou_threshold: IoU above which the worse of two boxes of a class goes.
        wanted: the answer has to be right for so many of the best that are kept, and may be False for others, which saves their
            comparison; 0: for all of them.

    Returns:
        (B, N) bool.
    """
    # image by image, for comparisons grow with the square of the boxes; a GPU is waited for once for each
    images = [slice(i, i + 1) for i in range(len(boxes))]
    return torch.cat([nms_mask_by_offsets(boxes[i], scores[i], classes[i], iou_threshold) for i in images])


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, wanted: int = 0) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@nms_mask.register_kernel("cpu")
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, wanted: int = 0) -> Tensor:
    # nothing waits for a CPU: boxes that are not there are left out, and those below the best only compared if too few of these are kept
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i, there in enumerate((scores >= 0).sum(1).tolist()):
        count = min(there, _AHEAD * wanted or there)
        while there:
            index = best_indices(scores[i], count)
            kept = index[_kept_of_image(boxes[i, index], scores[i, index], classes[i, index], iou_threshold)]
            if count == there or len(kept) >= wanted:
                keep[i, kept] = True
                break
            count = min(there, _AHEAD * count)
    return keep


def _kept_of_image(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Mask (N,) of the boxes that are kept, of boxes that are all there."""
    if float(boxes.amax() - boxes.amin()) < _FAR:
        return nms_mask_by_offsets(boxes[None], scores[None], classes[None], iou_threshold)[0]
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for number in classes.unique():
        index = (classes == number).nonzero().squeeze(1)
        keep[index[nms(boxes[index], scores[index], iou_threshold)]] = True
    return keep


def nms_mask_by_offsets(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, wanted: int = 0) -> Tensor:
    """``nms_mask`` by a single call of torchvision's operator, on boxes that are moved apart by image and class.

    In float64, in which the moved boxes keep all digits of their coordinates. All boxes that are not there become one and the same box, so
    that the first of them removes the others. Coordinates beyond 1e7 pixels count as that, for a wild box would push the digits out of all.
    """
    there, batch = scores >= 0, scores.shape[0]  # len() would make the batch a constant of exported programs
    images = torch.arange(batch, device=scores.device)[:, None]
    group = torch.where(there, classes * batch + images + 1, 0)
    wide = torch.where(there[..., None], boxes.double(), 0.0).nan_to_num(nan=0.0).clamp(-_WILD, _WILD)
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
