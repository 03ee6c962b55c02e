"""Cross coordinates, the cross-IoU and the losses between vectors (LSNet, section 3.3, appendix A and table 2).

A vector has four non-negative components: up, down, left, right. They are ordered y-, y+, x-, x+ as in the official code; positions are
x, y as everywhere here. Losses have one value for each anchor point; all lengths are in a unit that the caller chooses, relative to the
anchor point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.geometry import box_centers, box_sizes
from detkit.losses import giou_loss

__all__ = ["CrossIoULoss", "GIoULoss", "SmoothL1Loss", "VectorLoss", "VectorPairs", "cross_coordinates", "from_cross_coordinates"]

#: into how many groups the official cross-IoU puts the vectors; "axes": one for each axis of each vector
Groups = int | Literal["axes"]

#: keeps quotients finite
EPS = 1e-6


def cross_coordinates(offsets: Tensor, alpha: float = 0.2) -> Tensor:
    """What a branch should predict for a vector: its length on each axis, and ``alpha`` times that on the opposite side.

    Args:
        offsets: (..., 2) x, y from the anchor point to a landmark. 0 counts as right and down.
        alpha: of the softened coordinates (appendix A); with 0 a prediction on the wrong side would get no gradient.

    Returns:
        (..., 4) components, in the unit of ``offsets``. Inverse of :func:`from_cross_coordinates` for alpha < 1.
    """
    yx = offsets.flip(-1)
    length = yx.abs()
    forward = yx >= 0
    pairs = torch.stack([torch.where(forward, alpha * length, length), torch.where(forward, length, alpha * length)], dim=-1)
    return pairs.flatten(-2)


def from_cross_coordinates(vectors: Tensor) -> Tensor:
    """x, y (..., 2) of components (..., 4): on each axis the larger one counts (appendix A), up or left where they are equal."""
    backward, forward = vectors[..., 0::2], vectors[..., 1::2]
    return torch.where(forward > backward, forward, -backward).flip(-1)


def cross_iou(pred: Tensor, target: Tensor, *, num_groups: int, visible: Tensor | None = None) -> Tensor:
    """How well vectors agree: per group, the sum of the smaller components over the sum of the larger ones; the mean over the groups.

    Entry m is in group ``m % num_groups``. With one group for each vector this is equation 1. The official code takes one group for extreme
    points, groups of points nine places apart for contours, and one group for each axis of each vector for poses.

    Args:
        pred: (..., M, C) non-negative components of M entries.
        target: the same, to be predicted.
        num_groups: 1 to M.
        visible: (..., M) bool; entries that are not visible do not agree at all, but count (official code: the loss of such an entry is a
            constant without gradient).

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
    padded = F.pad(values, (0, rows * num_groups - values.shape[-1]))
    return padded.unflatten(-1, (rows, num_groups)).sum(-2)


def box_distance_penalty(pred: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the centers over the squared diagonal of the hull, for boxes (..., 4) xyxy (Zheng et al., Distance-IoU Loss,
    AAAI 2020, equation 7). In the official code of LSNet, not in its paper."""
    hull = torch.maximum(pred[..., 2:], target[..., 2:]) - torch.minimum(pred[..., :2], target[..., :2])
    distance = box_centers(pred) - box_centers(target)
    return distance.square().sum(-1) / (hull.clamp(min=0).square().sum(-1) + EPS)


def shape_penalty(pred: Tensor, target: Tensor, overlap: Tensor) -> Tensor:
    """Difference of the aspect ratios of boxes (..., 4), weighted by itself and by ``overlap`` (...), here the cross-IoU (Zheng et al.,
    equations 8 to 10; the weight carries gradient). In the official code of LSNet, not in its paper."""
    angle = torch.atan(_aspect(target)) - torch.atan(_aspect(pred))
    difference = 4 / math.pi**2 * angle.square()
    return difference.square() / (1 - overlap + difference).clamp(min=EPS)


def _aspect(boxes: Tensor) -> Tensor:
    width, height = box_sizes(boxes).unbind(-1)
    return width / (height + EPS)


@dataclass(frozen=True)
class VectorPairs:
    """What anchor points predict beside what they should predict; made by :meth:`lsnet.landmarks.LandmarkSet.pairs`.

    Attributes:
        vectors: (..., V + 1, 4) predicted vectors to the landmarks and the box center, in cross coordinates.
        offsets: (..., V + 1, 2) x, y that they should lead to.
        known: (..., V + 1) bool, False for landmarks without a label.
        boxes: (..., 4) xyxy that the predicted landmarks make.
        target_boxes: (..., 4) xyxy of the objects.
        groups: of the official cross-IoU.
        bounds_object: whether the landmarks' box is the object's, and is learned as such.
    """

    vectors: Tensor
    offsets: Tensor
    known: Tensor
    boxes: Tensor
    target_boxes: Tensor
    groups: Groups
    bounds_object: bool


#: from pairs of vectors to a loss (...)
VectorLoss = Callable[[VectorPairs], Tensor]


@dataclass(frozen=True, kw_only=True)
class CrossIoULoss:
    """1 - cross-IoU.

    Args:
        form: ``"paper"``: the mean over the vectors (equation 1). ``"official"``: components are grouped as
            :attr:`VectorPairs.groups` says, and boxes and contours also have the two penalties of the CIoU loss.
        alpha: of the softened coordinates (appendix A), in [0, 1).
    """

    form: Literal["official", "paper"] = "official"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        if self.form not in ("official", "paper"):
            raise ValueError(f"form is {self.form!r}. It has to be 'official' or 'paper'.")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}. It has to be in [0, 1).")

    def __call__(self, pairs: VectorPairs) -> Tensor:
        vectors, targets, visible = pairs.vectors, cross_coordinates(pairs.offsets, self.alpha), pairs.known
        if self.form == "paper":
            return 1 - cross_iou(vectors, targets, num_groups=vectors.shape[-2], visible=visible)
        if pairs.groups == "axes":
            vectors, targets = (x.unflatten(-1, (2, 2)).flatten(-3, -2) for x in (vectors, targets))
            visible = visible.repeat_interleave(2, dim=-1)
        num_groups = vectors.shape[-2] if pairs.groups == "axes" else pairs.groups
        overlap = cross_iou(vectors, targets, num_groups=num_groups, visible=visible)
        if not pairs.bounds_object:
            return 1 - overlap
        distance = box_distance_penalty(pairs.boxes, pairs.target_boxes)
        return 1 - overlap + distance + shape_penalty(pairs.boxes, pairs.target_boxes, overlap)


@dataclass(frozen=True, kw_only=True)
class SmoothL1Loss:
    """Smooth L1 on the components of the softened coordinates: summed over a vector, averaged over the labeled vectors.

    Args:
        beta: where the quadratic part ends, in the unit of the vectors; 0 or more.
        alpha: of the softened coordinates, in [0, 1).
    """

    beta: float = 1 / 9
    alpha: float = 0.2

    def __post_init__(self) -> None:
        if self.beta < 0 or not 0 <= self.alpha < 1:
            raise ValueError(f"beta is {self.beta}, alpha is {self.alpha}. They have to be in [0, inf) and [0, 1).")

    def __call__(self, pairs: VectorPairs) -> Tensor:
        targets = cross_coordinates(pairs.offsets, self.alpha)
        per_vector = F.smooth_l1_loss(pairs.vectors, targets, beta=self.beta, reduction="none").sum(-1)
        return (per_vector * pairs.known).sum(-1) / pairs.known.sum(-1).clamp(min=1)


class GIoULoss:
    """1 - GIoU of the boxes that the landmarks make. The landmarks themselves learn nothing from it beyond their box."""

    def __call__(self, pairs: VectorPairs) -> Tensor:
        return giou_loss(pairs.boxes, pairs.target_boxes)
