"""AutoAssign (Zhu et al., AutoAssign: Differentiable Label Assignment for Dense Object Detection, arXiv 2007.03496, section 3), and the two
variants of it that DW's table 6 compares."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from detkit.geometry import elementwise_iou
from detkit.losses import giou_loss

from .base import AssignContext, Assigner
from .candidates import CenterPrior, points_inside
from .registry import ASSIGNER_REGISTRY
from .segments import group_max, group_min, group_sum
from .soft import BagAssignment, Pairs, PairValues, SoftAssignment
from .windows import padding_mask

__all__ = ["AutoAssignAssigner", "center_loss", "negative_weight", "positive_weight"]

#: keeps quotients finite (the authors' code)
EPS = 1e-12


def positive_weight(confidence: Tensor, prior: Tensor, gt_index: Tensor, num_gts: int, *, sharpness: float = 3.0) -> Tensor:
    """``exp(sharpness * P) * prior`` over its sum over the object's locations (equations 4 to 6), with gradient to both.

    Args:
        confidence: (M,) P, score times ``exp(-5 * GIoU loss)``.
        prior: (M,) center prior.
        gt_index, num_gts: object of each pair.
    """
    weight = (sharpness * confidence).exp() * prior
    return weight / group_sum(weight, gt_index, num_gts).clamp(min=EPS)[gt_index]


def negative_weight(iou: Tensor, gt_index: Tensor, num_gts: int) -> Tensor:
    """``1 - f(1 / (1 - IoU))``, f stretching the values of an object's locations to [0, 1] (equation 7); 0 where they are all the same."""
    value = 1 / (1 - iou).clamp(min=EPS)
    lowest, highest = group_min(value, gt_index, num_gts), group_max(value, gt_index, num_gts)
    return 1 - (value - lowest[gt_index] + EPS) / (highest - lowest + EPS)[gt_index]


def center_loss(prior: Tensor, gt_index: Tensor, valid: Tensor) -> Tensor:
    """Keeps the center priors from vanishing: objects over the sum of their priors, the mean over the images (the authors' code; an image
    whose objects have no location inside counts 0).

    Args:
        prior: (M,) center prior of each pair.
        gt_index: (M,) its object.
        valid: (B, G) bool.
    """
    total = group_sum(prior, gt_index, valid.numel()).view_as(valid).sum(1)
    return torch.where(total > 0, valid.sum(1) / total.clamp(min=EPS), torch.zeros_like(total)).mean()


@ASSIGNER_REGISTRY.register()
class AutoAssignAssigner(Assigner):
    """Weights multiply probabilities, not losses, and are learned through them, with the mean and width of a center prior per class.

    Args:
        num_classes: K.
        weights: ``"learned"``: as published. ``"detached"``: no gradient through the weights, and a constant center prior; ``"on_loss"``:
            the detached weights multiply the logarithms, as in other weightings (table 6 of DW: 40.4, 39.8 and 36.6 AP).
        box_sharpness: what the GIoU loss is multiplied by in ``exp(-box_sharpness * loss)`` (the authors' code: 5).
        positive, negative, center: factors of the losses (the authors' code: 0.25, 0.75, 0.75).
    """

    config_section = "AUTOASSIGN"
    needs_predictions = True
    gives_weights = True

    def __init__(
        self,
        *,
        num_classes: int,
        weights: Literal["learned", "detached", "on_loss"] = "learned",
        box_sharpness: float = 5.0,
        positive: float = 0.25,
        negative: float = 0.75,
        center: float = 0.75,
    ) -> None:
        super().__init__()
        if weights not in ("learned", "detached", "on_loss"):
            raise ValueError(f"weights must be learned, detached or on_loss, not '{weights}'.")
        self.learned, self.on_loss = weights == "learned", weights == "on_loss"
        self.has_box_term = self.on_loss
        self.box_sharpness, self.positive, self.negative, self.center = box_sharpness, positive, negative, center
        self.center_prior = CenterPrior(num_classes, sigma=1.0, learned=self.learned)

    def forward(self, context: AssignContext) -> SoftAssignment | BagAssignment:
        gt, predictions = context.gt, context.given_predictions
        pairs, num_gts = points_inside(context), gt.valid.numel()
        values = pairs.look_up(predictions, gt)
        fixed = values.detach()
        prior = self.center_prior(pairs, gt, context.grid_priors)
        positive = positive_weight(self._confidence(values if self.learned else fixed), prior, pairs.gt_index, num_gts)
        negative = negative_weight(elementwise_iou(fixed.boxes, fixed.gt_boxes), pairs.gt_index, num_gts)
        num_objects = gt.valid.sum().float()
        common: dict[str, Any] = {
            "pairs": pairs,
            "values": values,
            "normalizers": torch.stack([num_objects, prior.detach().sum(), num_objects]),
            "background_factor": self.negative,
            "counts_negative": pairs.last_of_score(gt, predictions.logits),
            "ignore": padding_mask(context.grid_priors, context.valid_sizes),
            "extra_losses": self._own_losses(prior, pairs, gt.valid),
        }
        if self.on_loss:
            return SoftAssignment(
                positive_weight=self.positive * positive,
                negative_weight=self.negative * negative * values.score.square(),
                box_weight=self.positive * self.box_sharpness * positive,
                **common,
            )
        return BagAssignment(
            positive_weight=positive,
            negative_weight=negative,
            positive_factor=self.positive,
            negative_factor=self.negative,
            box_sharpness=self.box_sharpness,
            **common,
        )

    def _confidence(self, values: PairValues) -> Tensor:
        return values.score * (-self.box_sharpness * giou_loss(values.boxes, values.gt_boxes)).exp()

    def _own_losses(self, prior: Tensor, pairs: Pairs, valid: Tensor) -> dict[str, Tensor]:
        return {"loss_center": self.center * center_loss(prior, pairs.gt_index, valid)} if self.learned else {}
