"""The losses of a dense detector with weighted pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detkit.assigners import Assignment, BagAssignment, SoftAssignment
from detkit.assigners.segments import group_sizes
from detkit.distributed import reduce_mean
from detkit.geometry import Priors
from detkit.losses import background_loss, negative_log_rest
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = ["WeightedCriterion"]


class WeightedCriterion(nn.Module):
    """What the weights of a :class:`SoftAssignment` or a :class:`BagAssignment` say, on the score that the detector ranks by.

    One criterion for all weightings, and for hard labels, which are lifted to weights. A quality branch has no target of its own: it
    multiplies the class probability and learns with it (objectness; DW, section 3.5).

    A normalizer is at least 1 for each worker on average, as in the official code of DW: below that, several workers do not have the loss
    of one with the whole batch.

    Args:
        num_classes: K.
        box_loss: ``(pred, target) -> loss`` per pair of boxes (M, 4) in pixels, e.g. :func:`detkit.losses.giou_loss`.
        box_weight: of the boxes of hard labels; weightings have their own.
    """

    def __init__(self, *, num_classes: int, box_loss: Callable[[Tensor, Tensor], Tensor], box_weight: float = 1.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.box_loss = box_loss
        self.box_weight = box_weight

    def forward(self, predictions: Predictions, assignment: Assignment, gt: GroundTruth, priors: Priors) -> dict[str, Tensor]:
        """Scalar losses ``loss_cls_pos``, ``loss_box`` and ``loss_cls_neg``, or ``loss_pos`` and ``loss_cls_neg`` where weights multiply
        scores, and those of the assigner's own parameters."""
        if isinstance(assignment, HardAssignment):
            assignment = SoftAssignment.from_hard(assignment, gt, predictions, box_weight=self.box_weight)
        box_losses = self.box_loss(assignment.values.boxes, assignment.values.gt_boxes)
        positive_norm, negative_norm, box_norm = reduce_mean(assignment.normalizers).clamp(min=1).unbind()
        losses = dict(assignment.extra_losses)
        if isinstance(assignment, BagAssignment):
            losses["loss_pos"] = _bag_loss(assignment, box_losses, gt.valid.numel()) / positive_norm
        else:
            losses["loss_cls_pos"] = (assignment.positive_weight * assignment.values.positive_nll).sum() / positive_norm
            losses["loss_box"] = (assignment.box_weight * box_losses).sum() / box_norm
        losses["loss_cls_neg"] = _negative_mean(predictions, assignment, negative_norm)
        return losses


def _bag_loss(assignment: BagAssignment, box_losses: Tensor, num_gts: int) -> Tensor:
    """Sum over objects of ``-ln(sum over its pairs of w_pos * s * exp(-L))`` (AutoAssign, equation 8). Objects without pairs have none."""
    score, gt_index = assignment.values.score, assignment.pairs.gt_index
    likelihood = assignment.positive_weight * score * (-assignment.box_sharpness * box_losses).exp()
    bags = score.new_zeros(num_gts).index_add(0, gt_index, likelihood).clamp(min=torch.finfo(score.dtype).tiny)
    filled = group_sizes(gt_index, num_gts) > 0
    return assignment.positive_factor * -torch.where(filled, bags, torch.ones_like(bags)).log().sum()


def _negative_mean(predictions: Predictions, assignment: SoftAssignment | BagAssignment, norm: Tensor) -> Tensor:
    """The weighted ``-ln(1 - s)`` of the pairs and, of all scores that no pair has, the focal loss of the background, over the normalizer.

    The background is summed over all scores at once, and what the pairs' scores have in that sum is left out of it again.
    """
    score, gamma = assignment.values.score, assignment.background_gamma
    if isinstance(assignment, BagAssignment):
        weighted_score = assignment.negative_weight * score  # (AutoAssign, equation 8)
        negatives = assignment.negative_factor * weighted_score**gamma * negative_log_rest(weighted_score)
    else:
        negatives = assignment.negative_weight * assignment.values.negative_nll
    # as computed in background_loss: a softplus of the logit would differ where a score is nearly 1
    instead = negatives - assignment.background_factor * score**gamma * negative_log_rest(score)
    if assignment.counts_negative is not None:
        instead = torch.where(assignment.counts_negative, instead, torch.zeros_like(instead))
    logits = predictions.logits if assignment.values.all_logits is None else assignment.values.all_logits
    scale = assignment.background_factor / norm
    return background_loss(logits, predictions.quality, gamma=gamma, ignore=assignment.ignore, scale=scale) + instead.sum() / norm
