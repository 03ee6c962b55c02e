"""The losses of a dense detector with hard labels: classes, boxes, quality.

Box losses and qualities are called with ``(predictions, targets, priors)`` and give (B, P) values that are finite, and without gradient,
where a prior is not positive. Shapes as in :mod:`detkit.structures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.dense.criteria.normalizers import Normalizer, PositivesNormalizer
from detkit.geometry import BoxCoder, Priors, boxes_to_ltrb, centerness_of
from detkit.losses import focal_loss_from_labels, paired_iou
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = [
    "BoxTerm",
    "DecodedBoxLoss",
    "DenseTargets",
    "EncodedBoxLoss",
    "IoUQuality",
    "LabelCriterion",
    "centerness_quality",
    "centerness_weights",
    "uniform_weights",
]


@dataclass(frozen=True)
class DenseTargets:
    """Targets of every prior; shapes as in :mod:`detkit.structures`.

    Attributes:
        labels: (B, P) int64, class or K for background.
        positive: (B, P) bool.
        boxes: (B, P, 4) xyxy in pixels; a dummy box of one stride around the prior's location where not positive.
        centerness: (B, P) in [0, 1]; 0 where not positive.
        ignore: (B, P) bool or None.
    """

    labels: Tensor
    positive: Tensor
    boxes: Tensor
    centerness: Tensor
    ignore: Tensor | None

    @classmethod
    def from_assignment(cls, assignment: HardAssignment, gt: GroundTruth, priors: Priors, num_classes: int) -> DenseTargets:
        """Looks up class and box of the assigned objects."""
        positive = assignment.gt_index >= 0
        around = torch.cat([priors.points - priors.strides[:, None] / 2, priors.points + priors.strides[:, None] / 2], dim=-1)
        if gt.boxes.shape[1] == 0:
            labels = torch.full_like(assignment.gt_index, num_classes)
            boxes = around.expand(*positive.shape, 4)
        else:
            index = assignment.gt_index.clamp(min=0)
            labels = torch.where(positive, gt.classes.gather(1, index), num_classes)
            boxes = gt.boxes.gather(1, index[..., None].expand(-1, -1, 4))
            boxes = torch.where(positive[..., None], boxes, around)
        centerness = centerness_of(boxes_to_ltrb(boxes, priors.points)) * positive
        return cls(labels, positive, boxes, centerness, assignment.ignore)


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


def centerness_weights(targets: DenseTargets) -> Tensor:
    """Each positive's box loss counts by its center-ness (tianzhi0549/FCOS, ATSS, mmdetection): (B, P)."""
    return targets.centerness


def uniform_weights(targets: DenseTargets) -> Tensor:
    """The box losses of all positives count alike (Detectron2's FCOS, RetinaNet): (B, P)."""
    return targets.positive.to(targets.centerness)


class LabelCriterion(nn.Module):
    """Focal loss on the classes, a loss on the boxes of the positives, binary cross entropy on their quality.

    Everything is computed on all priors and masked, so that shapes depend on the image size alone.

    Args:
        num_classes: K.
        box_loss: such as :class:`DecodedBoxLoss`.
        box_weights: weight of each positive in the box loss, 0 where not positive.
        quality_target: what the quality branch learns, in [0, 1].
        normalizer: what the sums are divided by; None: :class:`detkit.dense.criteria.normalizers.PositivesNormalizer`.
        focal_alpha, focal_gamma: of the focal loss.
        cls_weight, box_weight, quality_weight: factors of the loss terms (ATSS: box 2).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        box_loss: BoxTerm,
        box_weights: Callable[[DenseTargets], Tensor] = centerness_weights,
        quality_target: BoxTerm = centerness_quality,
        normalizer: Normalizer | None = None,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_weight: float = 1.0,
        box_weight: float = 1.0,
        quality_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.box_loss = box_loss
        self.box_weights = box_weights
        self.quality_target = quality_target
        self.normalizer = normalizer or PositivesNormalizer()
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.cls_weight = cls_weight
        self.box_weight = box_weight
        self.quality_weight = quality_weight

    def forward(self, predictions: Predictions, assignment: HardAssignment, gt: GroundTruth, priors: Priors) -> dict[str, Tensor]:
        """Scalar losses ``loss_cls``, ``loss_box`` and, with a quality branch, ``loss_quality``."""
        targets = DenseTargets.from_assignment(assignment, gt, priors, self.num_classes)
        box_weights = self.box_weights(targets)
        norm = self.normalizer(targets.positive, box_weights)
        cls = focal_loss_from_labels(
            predictions.logits, targets.labels, alpha=self.focal_alpha, gamma=self.focal_gamma, ignore=targets.ignore
        )
        box = (self.box_loss(predictions, targets, priors) * box_weights).sum()
        losses = {"loss_cls": self.cls_weight * cls / norm.cls, "loss_box": self.box_weight * box / norm.box}
        if predictions.quality is not None:
            quality_target = self.quality_target(predictions, targets, priors)
            quality = F.binary_cross_entropy_with_logits(predictions.quality, quality_target, reduction="none")
            losses["loss_quality"] = self.quality_weight * (quality * targets.positive).sum() / norm.quality
        return losses
