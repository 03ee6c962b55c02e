"""The losses of a dense detector with weighted pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detkit.assigners import PairValues, SoftAssignment
from detkit.distributed import reduce_mean
from detkit.geometry import Priors
from detkit.losses import background_loss, negative_log_rest
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = ["WeightedCriterion"]


class WeightedCriterion(nn.Module):
    """What the weights of a :class:`SoftAssignment` and its form say, on the score that the detector ranks by.

    One criterion for all weightings, and for hard labels, which are lifted to weights. A quality branch has no target of its own: it
    multiplies the class probability and learns with it (objectness; DW, section 3.5).

    A normalizer is at least 1 for each worker on average, as in the official code of DW: below that, several workers do not have the loss
    of one with the whole batch.

    Args:
        num_classes: K.
        box_loss: ``(pred, target) -> loss`` per pair of boxes (M, 4) in pixels, e.g. :func:`detkit.losses.giou_loss`.
    """

    def __init__(self, *, num_classes: int, box_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.box_loss = box_loss

    def forward(
        self, predictions: Predictions, assignment: HardAssignment | SoftAssignment, gt: GroundTruth, priors: Priors
    ) -> dict[str, Tensor]:
        """Scalar losses ``loss_cls_pos``, ``loss_box`` and ``loss_cls_neg``, or ``loss_pos`` and ``loss_cls_neg`` where weights multiply
        scores, and those of the assigner's own parameters."""
        if isinstance(assignment, HardAssignment):
            assignment = SoftAssignment.from_hard(assignment, gt)
        form = assignment.form
        values = assignment.pairs.look_up(predictions, gt)
        box_losses = form.box * self.box_loss(values.boxes, values.gt_boxes)
        positive_norm, negative_norm, box_norm = reduce_mean(assignment.normalizers).clamp(min=1).unbind()
        losses = {}
        if form.weights_on == "score":
            losses["loss_pos"] = form.positive * _bag_losses(values.score, box_losses, assignment, gt.valid.numel()) / positive_norm
            negative = _negatives_by_weighted_score(values, assignment)
        else:
            positive_weight, negative_weight = assignment.loss_weights(values)
            losses["loss_cls_pos"] = form.positive * (positive_weight * values.positive_nll).sum() / positive_norm
            losses["loss_box"] = (assignment.box_weight * box_losses).sum() / box_norm
            negative = form.negative * negative_weight * values.negative_nll
        background = background_loss(predictions.logits, predictions.quality, gamma=form.background_gamma, ignore=assignment.ignore)
        # as computed in background_loss, of which it is taken back: a softplus of the logit would differ where a score is nearly 1
        correction = negative - form.background * values.score**form.background_gamma * negative_log_rest(values.score)
        if assignment.owns_score is not None:
            correction = torch.where(assignment.owns_score, correction, torch.zeros_like(correction))
        losses["loss_cls_neg"] = (form.background * background + correction.sum()) / negative_norm
        return losses | dict(assignment.own_losses)


def _bag_losses(score: Tensor, box_losses: Tensor, assignment: SoftAssignment, num_gts: int) -> Tensor:
    """Sum over objects of ``-ln(sum over its pairs of w_pos * s * exp(-L))`` (AutoAssign, equation 8). Objects without pairs have none."""
    gt_index = assignment.pairs.gt_index
    likelihood = assignment.positive_weight * score * (-box_losses).exp()
    bags = score.new_zeros(num_gts).index_add(0, gt_index, likelihood).clamp(min=torch.finfo(score.dtype).tiny)
    filled = torch.bincount(gt_index, minlength=num_gts) > 0
    return -torch.where(filled, bags, torch.ones_like(bags)).log().sum()


def _negatives_by_weighted_score(values: PairValues, assignment: SoftAssignment) -> Tensor:
    """(M,) ``r ** gamma * -ln(1 - r)`` of every pair, with ``r = w_neg * s`` (AutoAssign, equation 8)."""
    score = assignment.negative_weight * values.score
    return assignment.form.negative * score**assignment.form.gamma * negative_log_rest(score)
