"""Box losses and box qualities of every prior, from predictions and targets.

Each is called with ``(predictions, targets, priors)`` and gives (B, P) values that are finite, and without gradient, where a prior is not
positive. Shapes as in :mod:`detkit.assigners.base`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detkit.dense.criteria.targets import DenseTargets
from detkit.geometry import BoxCoder, Priors
from detkit.losses import paired_iou
from detkit.structures import Predictions

__all__ = ["BoxTerm", "DecodedBoxLoss", "EncodedBoxLoss", "IoUQuality", "centerness_quality"]

#: a loss or a quality of every prior's box
BoxTerm = Callable[[Predictions, DenseTargets, Priors], Tensor]


class DecodedBoxLoss:
    """A loss between boxes, such as :func:`detkit.losses.giou_loss`.

    Args:
        box_coder: its ``iou_unit`` is the length in which the loss is computed.
        loss: ``(pred, target) -> loss`` of boxes (..., 4) xyxy.
    """

    def __init__(self, box_coder: BoxCoder, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.box_coder = box_coder
        self.loss = loss

    def __call__(self, predictions: Predictions, targets: DenseTargets, priors: Priors) -> Tensor:
        return self.loss(*_relative_boxes(predictions, targets, priors, self.box_coder))


class EncodedBoxLoss:
    """A loss between what the regression branch gives and what it should give, such as smooth L1 (Fast R-CNN, equation 3; RetinaNet).

    Positives whose box the coder cannot express (a location outside its object, with ``exp``) have no loss.

    Args:
        box_coder: encodes the targets.
        loss: ``(pred, target) -> loss`` per element.
    """

    def __init__(self, box_coder: BoxCoder, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.box_coder = box_coder
        self.loss = loss

    def __call__(self, predictions: Predictions, targets: DenseTargets, priors: Priors) -> Tensor:
        if predictions.raw_boxes is None:
            raise ValueError("A loss on encoded boxes needs the raw output of the regression branch (Predictions.raw_boxes).")
        target = self.box_coder.encode(targets.boxes, priors)
        learned = targets.positive & target.isfinite().all(-1)
        target = torch.where(learned[..., None], target, 0.0)
        return self.loss(torch.where(learned[..., None], predictions.raw_boxes, target), target).sum(-1)


def centerness_quality(predictions: Predictions, targets: DenseTargets, priors: Priors) -> Tensor:
    """How central a location lies in its object (FCOS, equation 3)."""
    return targets.centerness


class IoUQuality:
    """How well the predicted box fits: its IoU with the object, detached (AdelaiDet's ``BOX_QUALITY: "iou"``).

    Args:
        box_coder: its ``iou_unit`` is the length in which ``offset`` counts.
        offset: added to intersection and union (AdelaiDet: 1).
    """

    def __init__(self, box_coder: BoxCoder, offset: float = 0.0) -> None:
        self.box_coder = box_coder
        self.offset = offset

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: DenseTargets, priors: Priors) -> Tensor:
        return paired_iou(*_relative_boxes(predictions, targets, priors, self.box_coder), offset=self.offset) * targets.positive


def _relative_boxes(predictions: Predictions, targets: DenseTargets, priors: Priors, box_coder: BoxCoder) -> tuple[Tensor, Tensor]:
    """Predicted and true boxes (B, P, 4), relative to the location and in the coder's unit; equal where not positive."""
    origin = priors.points.repeat(1, 2)
    unit = box_coder.iou_unit(priors)[:, None]
    target = (targets.boxes - origin) / unit
    return torch.where(targets.positive[..., None], (predictions.boxes - origin) / unit, target), target
