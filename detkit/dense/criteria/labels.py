"""The losses of a dense detector with hard labels: classes, boxes, quality.

Shapes as in :mod:`detkit.structures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.dense.criteria.normalizers import Normalizer, PositivesNormalizer
from detkit.geometry import BoxCoder, Priors, boxes_to_ltrb, centerness_of, computed_once
from detkit.losses import focal_loss_from_labels, paired_iou
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = [
    "BoxComparison",
    "BoxTerm",
    "DenseTargets",
    "LabelCriterion",
    "centerness_quality",
    "centerness_weights",
    "decoded_box_loss",
    "encoded_box_loss",
    "iou_quality",
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
        if gt.boxes.shape[1] == 0:
            labels = torch.full_like(assignment.gt_index, num_classes)
            boxes = priors.cells.expand(*positive.shape, 4)
        else:
            index = assignment.gt_index.clamp(min=0)
            labels = torch.where(positive, gt.classes.gather(1, index), num_classes)
            boxes = gt.boxes.gather(1, index[..., None].expand(-1, -1, 4))
            boxes = torch.where(positive[..., None], boxes, priors.cells)
        centerness = centerness_of(boxes_to_ltrb(boxes, priors.points)) * positive
        return cls(labels, positive, boxes, centerness, assignment.ignore)


@dataclass(frozen=True)
class BoxComparison:
    """Predicted and true boxes of every prior, in the forms that losses and qualities compare.

    Attributes:
        predictions, targets, priors: of the batch.
        box_coder: what the regression means; its ``iou_unit`` is the length in which losses between boxes are computed.
    """

    predictions: Predictions
    targets: DenseTargets
    priors: Priors
    box_coder: BoxCoder

    @computed_once
    def relative(self) -> tuple[Tensor, Tensor]:
        """Predicted and true boxes (B, P, 4), relative to the location and in the coder's unit; equal where not positive."""
        origin = self.priors.origins
        unit = self.box_coder.iou_unit(self.priors)[:, None]
        target = (self.targets.boxes - origin) / unit
        return torch.where(self.targets.positive[..., None], (self.predictions.boxes - origin) / unit, target), target

    def encoded(self) -> tuple[Tensor, Tensor]:
        """What the regression branch gives and should give (B, P, 4); equal where not positive, and where the coder cannot express the
        target (a location outside its object, with ``exp``)."""
        if self.predictions.raw_boxes is None:
            raise ValueError("A loss on encoded boxes needs the raw output of the regression branch (Predictions.raw_boxes).")
        target = self.box_coder.encode(self.targets.boxes, self.priors)
        learned = (self.targets.positive & target.isfinite().all(-1))[..., None]
        target = torch.where(learned, target, 0.0)
        return torch.where(learned, self.predictions.raw_boxes, target), target


#: a loss or a quality of every prior's box: (B, P) values that are finite, and without gradient, where a prior is not positive
BoxTerm = Callable[[BoxComparison], Tensor]


def decoded_box_loss(boxes: BoxComparison, *, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A loss ``(pred, target) -> loss`` between boxes xyxy, such as :func:`detkit.losses.giou_loss`."""
    return loss(*boxes.relative)


def encoded_box_loss(boxes: BoxComparison, *, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A loss per element between what the regression branch gives and what it should give, such as smooth L1 (Fast R-CNN, equation 3;
    RetinaNet)."""
    return loss(*boxes.encoded()).sum(-1)


def centerness_quality(boxes: BoxComparison) -> Tensor:
    """How central a location lies in its object (FCOS, equation 3)."""
    return boxes.targets.centerness


@torch.no_grad()
def iou_quality(boxes: BoxComparison, *, offset: float = 0.0) -> Tensor:
    """How well the predicted box fits: its IoU with the object, detached (AdelaiDet's ``BOX_QUALITY: "iou"``); ``offset`` is added to
    intersection and union (AdelaiDet: 1)."""
    pred, target = boxes.relative
    return paired_iou(pred, target, offset=offset) * boxes.targets.positive


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
        box_coder: what the regression means.
        box_loss: such as :func:`decoded_box_loss` with a loss.
        location_weights: weight of each positive location in the box loss, 0 where not positive.
        quality_target: what the quality branch learns, in [0, 1].
        normalizer: what the sums are divided by; None: :class:`detkit.dense.criteria.normalizers.PositivesNormalizer`.
        focal_alpha, focal_gamma: of the focal loss.
        cls_weight, box_weight, quality_weight: factors of the loss terms (ATSS: box 2).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        box_coder: BoxCoder,
        box_loss: BoxTerm,
        location_weights: Callable[[DenseTargets], Tensor] = centerness_weights,
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
        self.box_coder = box_coder
        self.box_loss = box_loss
        self.location_weights = location_weights
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
        box_weights = self.location_weights(targets)
        norm = self.normalizer(targets.positive, box_weights)
        cls = focal_loss_from_labels(
            predictions.logits,
            targets.labels,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            ignore=targets.ignore,
            scale=self.cls_weight / norm.cls,
        )
        boxes = BoxComparison(predictions, targets, priors, self.box_coder)
        box = (self.box_loss(boxes) * box_weights).sum()
        losses = {"loss_cls": cls, "loss_box": self.box_weight * box / norm.box}
        if predictions.quality is not None:
            quality = F.binary_cross_entropy_with_logits(predictions.quality, self.quality_target(boxes), reduction="none")
            losses["loss_quality"] = self.quality_weight * (quality * targets.positive).sum() / norm.quality
        return losses
