"""Soft assignments: weighted pairs of priors and objects, and how their weights enter the loss.

Shapes: M counts the pairs of the whole batch; the other letters stand in :mod:`detkit.assigners.base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.losses import negative_log_rest
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = ["FOCAL_FORM", "LossForm", "PairValues", "Pairs", "SoftAssignment", "hard_pairs"]


@dataclass(frozen=True)
class Pairs:
    """Which prior is looked at for which object; both may stand in several pairs. Listed object by object.

    Attributes:
        prior_index: (M,) int64 in [0, B * P): priors of the batch, image by image.
        gt_index: (M,) int64 in [0, B * G), ascending: objects of the batch, image by image, counting the padded ones.
    """

    prior_index: Tensor
    gt_index: Tensor

    def classes(self, gt: GroundTruth) -> Tensor:
        """(M,) int64, the class of each pair's object."""
        return gt.classes.flatten()[self.gt_index]

    def gt_boxes(self, gt: GroundTruth) -> Tensor:
        """(M, 4) the box of each pair's object."""
        return gt.boxes.flatten(0, 1).index_select(0, self.gt_index)

    def score_index(self, gt: GroundTruth, num_classes: int) -> Tensor:
        """(M,) int64, where the score of the pair's prior for the class of its object stands in flattened logits (B, P, K)."""
        return self.prior_index * num_classes + self.classes(gt)

    def look_up(self, predictions: Predictions, gt: GroundTruth) -> PairValues:
        """What the detector predicts for each pair, with gradient if the predictions have one."""
        index = self.score_index(gt, predictions.logits.shape[-1])
        return PairValues(
            logit=predictions.logits.flatten().gather(0, index),
            quality=None if predictions.quality is None else predictions.quality.flatten().gather(0, self.prior_index),
            boxes=predictions.boxes.flatten(0, 1).index_select(0, self.prior_index),
            gt_boxes=self.gt_boxes(gt),
        )

    def select(self, keep: Tensor) -> Pairs:
        """The pairs where the (M,) bool mask ``keep`` is true. Waits for the device."""
        return Pairs(self.prior_index[keep], self.gt_index[keep])

    def owns_score(self, gt: GroundTruth, num_classes: int) -> Tensor:
        """(M,) bool: whether no later pair has the same prior and the same class.

        Where objects of one class overlap, their common priors have one score and several pairs; the negative weight of that score is
        the one of the object that stands last (strongwolf/DW on a CPU).
        """
        index, order = self.score_index(gt, num_classes).sort(stable=True)
        is_last = torch.ones_like(index, dtype=torch.bool)
        is_last[:-1] = index[1:] != index[:-1]
        return torch.empty_like(is_last).scatter_(0, order, is_last)


@dataclass(frozen=True)
class PairValues:
    """Predictions and objects of pairs.

    The score of a pair is the one that the detector ranks by: the probability of the object's class, times the quality where the head
    has such a branch (FCOS, section 3.2; DW, section 3.5).

    Attributes:
        logit: (M,) class logit.
        quality: (M,) logit, or None.
        boxes: (M, 4) predicted, xyxy in pixels.
        gt_boxes: (M, 4) of the object.
    """

    logit: Tensor
    quality: Tensor | None
    boxes: Tensor
    gt_boxes: Tensor

    @property
    def score(self) -> Tensor:
        """(M,) s in [0, 1]."""
        return self.logit.sigmoid() if self.quality is None else self.logit.sigmoid() * self.quality.sigmoid()

    @property
    def positive_nll(self) -> Tensor:
        """(M,) ``-ln(s)``."""
        return F.softplus(-self.logit) if self.quality is None else F.softplus(-self.logit) + F.softplus(-self.quality)

    @property
    def negative_nll(self) -> Tensor:
        """(M,) ``-ln(1 - s)``."""
        return F.softplus(self.logit) if self.quality is None else negative_log_rest(self.score)


@dataclass(frozen=True)
class LossForm:
    """How the weights of an assignment enter the loss. Belongs to a weighting, not to a batch.

    With the score s of a pair, its target t, its weights w and its box loss L, and all scores that no pair has as background::

        positive   * sum over pairs       of w_pos * f_pos * -ln(s)      / normalizer of the positives
        negative   * sum over pairs       of w_neg * f_neg * -ln(1 - s)  / normalizer of the negatives
        background * sum over other scores of s ** 2       * -ln(1 - s)  / normalizer of the negatives
        box        * sum over pairs       of w_box * L                   / normalizer of the boxes

    Weights carry no gradient, the factors f do: they are what a published loss multiplies by functions of the score.

    Attributes:
        positive, negative, background, box: factors of the four terms.
        positive_focus: f_pos: ``"none"``: 1; ``"target"``: ``|s - t| ** gamma``.
        negative_focus: f_neg: ``"none"``: 1; ``"target"``: ``|s - t| ** gamma``; ``"score"``: ``s ** gamma``.
        gamma: exponent of the factors.
        background_gamma: exponent of the background (focal loss: 2).
        weights_on: ``"loss"``: as above; ``"score"``: weights multiply scores inside the logarithms, and the box loss becomes a
            probability (AutoAssign): the first and the last term give way to ``positive * -ln(sum of w_pos * s * exp(-box * L))`` of
            every object, and the second has ``w_neg * s`` in place of s.
    """

    positive: float = 1.0
    negative: float = 1.0
    background: float = 1.0
    box: float = 1.0
    positive_focus: Literal["none", "target"] = "none"
    negative_focus: Literal["none", "target", "score"] = "score"
    gamma: float = 2.0
    background_gamma: float = 2.0
    weights_on: Literal["loss", "score"] = "loss"


#: focal loss with its usual constants (Lin et al., ICCV 2017): what hard labels are trained with
FOCAL_FORM = LossForm(positive=0.25, background=0.75, positive_focus="target")


@dataclass(frozen=True)
class SoftAssignment:
    """Weighted pairs of priors and objects.

    Attributes:
        pairs: the M pairs. All scores that no pair has are background.
        positive_weight: (M,) >= 0, of ``-ln(s)``.
        negative_weight: (M,) >= 0, of ``-ln(1 - s)``.
        box_weight: (M,) >= 0, of the box loss.
        normalizers: (3,) what the sums of positives, negatives and boxes of this batch are divided by, on this worker, before the mean
            over the workers is taken.
        form: how the weights enter the loss.
        target: (M,) in [0, 1], the score that a pair should have; None if the form asks for none.
        owns_score: (M,) bool, which pair decides the negative weight where several have the same score: one of them. None: no two do.
        ignore: (B, P) bool, priors that take no part; None: none.
        own_losses: losses of the assigner's own parameters, by name (``loss_<term>``).
    """

    pairs: Pairs
    positive_weight: Tensor
    negative_weight: Tensor
    box_weight: Tensor
    normalizers: Tensor
    form: LossForm
    target: Tensor | None = None
    owns_score: Tensor | None = None
    ignore: Tensor | None = None
    own_losses: Mapping[str, Tensor] = field(default_factory=dict)

    def loss_weights(self, values: PairValues) -> tuple[Tensor, Tensor]:
        """(M,) what ``-ln(s)`` and ``-ln(1 - s)`` of every pair are multiplied by: the weights times the form's f_pos and f_neg.

        Args:
            values: of the pairs; the factors carry their gradient.

        Raises:
            ValueError: the form compares scores with targets, and there are none.
        """
        focus = {"none": self._no_focus, "target": self._distance_to_target, "score": lambda values: values.score**self.form.gamma}
        positive = self.positive_weight * focus[self.form.positive_focus](values)
        return positive, self.negative_weight * focus[self.form.negative_focus](values)

    def _no_focus(self, values: PairValues) -> Tensor:
        return torch.ones_like(self.positive_weight)

    def _distance_to_target(self, values: PairValues) -> Tensor:
        if self.target is None:
            raise ValueError("The form of this assignment compares scores with targets, but it has none: give SoftAssignment a target.")
        return (values.score - self.target).abs() ** self.form.gamma

    @classmethod
    def from_hard(cls, assignment: HardAssignment, gt: GroundTruth, form: LossForm = FOCAL_FORM) -> SoftAssignment:
        """Hard labels as weights 0 and 1, so that a loss written for soft assignments serves both."""
        pairs = hard_pairs(assignment, gt)
        one = torch.ones_like(pairs.prior_index, dtype=torch.float32)
        count = one.sum().expand(3)
        return cls(pairs, one, torch.zeros_like(one), one, count, form, target=one, ignore=assignment.ignore)


def hard_pairs(assignment: HardAssignment, gt: GroundTruth) -> Pairs:
    """The positive priors of hard labels, each with its object. Waits for the device."""
    image, prior = (assignment.gt_index >= 0).nonzero(as_tuple=True)
    num_priors, num_gts = assignment.gt_index.shape[1], gt.classes.shape[1]
    gt_index, order = (image * num_gts + assignment.gt_index[image, prior]).sort(stable=True)
    return Pairs((image * num_priors + prior)[order], gt_index)
