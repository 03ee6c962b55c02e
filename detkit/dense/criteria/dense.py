"""The losses of a dense detector with hard labels: classes, boxes, quality."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from detkit.dense.criteria.box_losses import BoxTerm, centerness_quality
from detkit.dense.criteria.normalizers import Normalizer, PositivesNormalizer
from detkit.dense.criteria.targets import DenseTargets
from detkit.geometry import Priors
from detkit.losses import focal_loss_from_labels
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = ["DenseCriterion", "centerness_weights", "uniform_weights"]


def centerness_weights(targets: DenseTargets) -> Tensor:
    """Each positive's box loss counts by its center-ness (tianzhi0549/FCOS, ATSS, mmdetection): (B, P)."""
    return targets.centerness


def uniform_weights(targets: DenseTargets) -> Tensor:
    """The box losses of all positives count alike (Detectron2's FCOS, RetinaNet): (B, P)."""
    return targets.positive.to(targets.centerness)


class DenseCriterion(nn.Module):
    """Focal loss on the classes, a loss on the boxes of the positives, binary cross entropy on their quality.

    Everything is computed on all priors and masked, so that shapes depend on the image size alone.

    Args:
        num_classes: K.
        box_loss: see :mod:`detkit.dense.criteria.box_losses`.
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
