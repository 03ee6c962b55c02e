"""Dual weighting (Li et al., A Dual Weighting Label Assignment Scheme for Object Detection, CVPR 2022): every candidate of an object has
a positive weight, by how well score and box agree, and a negative one, by how wrong its box is.

The paper's formulas and those of the published code (strongwolf/DW, with which the reported AP was reached) differ; both stand here as
functions of the pairs alone, flat (M,), whose objects ``gt_index`` are numbered in [0, num_gts).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detkit.config.assigners import ASSIGNER_LIMITS
from detkit.geometry import elementwise_iou
from detkit.losses import giou_loss

from .base import AssignContext, Assigner
from .candidates import CenterPrior, nearest_points, points_inside, points_near_center
from .registry import ASSIGNER_REGISTRY
from .segments import group_max, group_min, group_sum
from .soft import Pairs, PairValues, SoftAssignment
from .windows import padding_mask

__all__ = [
    "DWAssigner",
    "official_negative_probability",
    "official_positive_weight",
    "paper_negative_probability",
    "paper_positive_weight",
]

#: keeps quotients finite (strongwolf/DW)
EPS = 1e-12


def official_positive_weight(
    score: Tensor,
    box_loss: Tensor,
    prior: Tensor,
    gt_index: Tensor,
    num_gts: int,
    *,
    beta: float = 5.0,
    mu: float = 5.0,
    mu_normalizer: float = 3.0,
) -> Tensor:
    """Positive weights as in strongwolf/DW: with ``t = s * exp(-beta * GIoU loss)``, ``exp(mu t) t prior`` over the sum of
    ``exp(mu_normalizer t) t prior`` of the object's candidates. The two exponents differ, so the weights of an object need not sum to 1.

    Args:
        score: s, in [0, 1].
        box_loss: GIoU loss of the predicted box, in [0, 2].
        prior: center prior, in [0, 1].
        gt_index, num_gts: object of each pair.
        beta, mu, mu_normalizer: 5, 5 and 3 in the code.
    """
    t = score * (-beta * box_loss).exp()
    total = group_sum((mu_normalizer * t).exp() * t * prior, gt_index, num_gts).clamp(min=EPS)
    return (mu * t).exp() * t * prior / total.index_select(0, gt_index)


def paper_positive_weight(
    score: Tensor, iou: Tensor, prior: Tensor, gt_index: Tensor, num_gts: int, *, beta: float = 5.0, mu: float = 5.0
) -> Tensor:
    """Positive weights of DW, equations 3 and 4: ``exp(mu t) t`` with ``t = s * IoU ** beta``, times the center prior, divided by the sum
    over the object's candidates (end of section 3.2; table 4 for the prior)."""
    t = score * iou**beta
    weight = (mu * t).exp() * t * prior
    return weight / group_sum(weight, gt_index, num_gts).clamp(min=EPS).index_select(0, gt_index)


def official_negative_probability(iou: Tensor, gt_index: Tensor, num_gts: int, *, gamma1: float = 2.0) -> Tensor:
    """P_neg as in strongwolf/DW: 1 below an IoU of 0.5; above, ``(1 - IoU ** gamma1) / (1 - 0.5 ** gamma1)``, shifted and stretched so that
    it is 0 for the object's best candidate and 1 for its worst one (or for an IoU of 0.5, if that is better than the worst one).

    Where all candidates of an object have the same IoU, a single one for instance, it is 1.
    """
    falling = (1 - iou**gamma1) / (1 - 0.5**gamma1)
    lowest = group_min(falling, gt_index, num_gts)
    highest = group_max(falling, gt_index, num_gts).clamp(max=1)
    span = highest - lowest + EPS
    stretched = (falling - lowest.index_select(0, gt_index) + EPS) / span.index_select(0, gt_index)
    return torch.where(iou < 0.5, torch.ones_like(iou), stretched)


def paper_negative_probability(iou: Tensor, *, gamma1: float = 2.0) -> Tensor:
    """P_neg of DW, equations 5 and 6: ``b - k * IoU ** gamma1`` through (0.5, 1) and (0.95, 0), 1 below and 0 above."""
    k = 1 / (0.95**gamma1 - 0.5**gamma1)
    return (k * (0.95**gamma1 - iou**gamma1)).clamp(0, 1)


@ASSIGNER_REGISTRY.register()
class DWAssigner(Assigner):
    """Dual weighting of the candidates of every object.

    Where objects of one class overlap, each gives positive weights of its own to their common priors; the negative weight is that of the
    object that stands last in its image, as in the published code on a CPU. An object without a location inside has no candidates and no
    positive loss. Memory and time grow with the candidates.

    Args:
        num_classes: K, of the center prior.
        formula: ``"official"`` (strongwolf/DW) or ``"paper"``, for both weights.
        beta: how much the box counts in the consistency metric, and what the box loss is multiplied by (equations 3 and 11).
        mu: relative gaps between positive weights (equation 4).
        mu_normalizer: the same in the normalizer of the official formula.
        gamma1: shape of P_neg (equation 6).
        gamma2: exponent of the score in the importance of a negative (equation 7); the background keeps 2, as in a focal loss.
        bag: candidates of an object, always with their location inside it: ``"inside"`` all of them; ``"threshold"`` those nearer to its
            center than ``radius`` strides; ``"topk"`` the ``topk`` nearest of each level (table 4). The last two wait for the device once a
            step, for how many there are.
        prior: what positive weights are multiplied by: ``"soft"`` a Gaussian of the distance from the center, ``"hard"`` 1 where that is
            above ``prior_threshold`` and else 0 (strongwolf/DW ``soft_prior=False``), ``"none"`` 1.
        prior_sigma: width of the Gaussian in strides: 1.11 in the code; 0.7071 is the paper's ``exp(-r ** 2)``.
        negative: which parts of the negative weight candidates have (table 5): ``"full"`` P_neg times I_neg, ``"probability"``,
            ``"importance"``, ``"none"``, or ``"one_minus_positive"``. The normalizer is that of ``"full"`` for all.
        factor: of the positive and box losses: 0.25 in the code, not in the paper.
    """

    config_section = "DW"
    compiles = True
    needs_predictions = True
    gives_weights = True

    def __init__(
        self,
        *,
        num_classes: int,
        formula: Literal["official", "paper"] = "official",
        beta: float = 5.0,
        mu: float = 5.0,
        mu_normalizer: float = 3.0,
        gamma1: float = 2.0,
        gamma2: float = 2.0,
        bag: Literal["inside", "threshold", "topk"] = "inside",
        radius: float = 1.7,
        topk: int = 9,
        prior: Literal["soft", "hard", "none"] = "soft",
        prior_sigma: float = 1.11,
        prior_threshold: float = 0.3,
        negative: Literal["full", "probability", "importance", "none", "one_minus_positive"] = "full",
        factor: float = 0.25,
    ) -> None:
        super().__init__()
        given = {"formula": formula, "bag": bag, "prior": prior, "negative": negative}
        for name, value in given.items():
            choices = ASSIGNER_LIMITS["DW"][name.upper()]
            if isinstance(choices, tuple) and value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not '{value}'.")
        self.formula = formula
        self.beta, self.mu, self.mu_normalizer, self.gamma1 = beta, mu, mu_normalizer, gamma1
        self.bag, self.radius, self.topk = bag, radius, topk
        self.prior, self.prior_threshold = prior, prior_threshold
        self.negative = negative
        self.center_prior = CenterPrior(num_classes, sigma=prior_sigma)
        self.gamma2, self.factor = gamma2, factor

    def forward(self, context: AssignContext) -> SoftAssignment:
        gt, predictions = context.gt, context.given_predictions
        pairs = context.ahead if isinstance(context.ahead, Pairs) else self.ahead(context)
        values = pairs.look_up(predictions, gt)
        positive, probability = self._weights(values.detach(), self._prior(pairs, context), pairs.gt_index, gt.valid.numel())
        counts_negative = pairs.last_of_score(gt, predictions.logits)
        num_objects, certain = gt.valid.sum().float(), ((1 - probability) * counts_negative).sum()
        return SoftAssignment(
            pairs=pairs,
            values=values,
            positive_weight=self.factor * positive,
            negative_weight=self._negative_weight(values.score, positive, probability),
            box_weight=self.factor * self.beta * positive,
            normalizers=torch.stack([num_objects, certain, num_objects]),
            counts_negative=counts_negative,
            ignore=padding_mask(context.grid_priors, context.valid_sizes),
        )

    def ahead(self, context: AssignContext) -> Pairs:
        if self.bag == "threshold":
            return points_near_center(context, self.radius)
        return points_inside(context) if self.bag == "inside" else nearest_points(context, self.topk)

    def _prior(self, pairs: Pairs, context: AssignContext) -> Tensor:
        if self.prior == "none":
            return torch.ones_like(pairs.prior_index, dtype=torch.float32)
        prior = self.center_prior(pairs, context.gt, context.grid_priors)
        return prior if self.prior == "soft" else (prior > self.prior_threshold).float()

    def _weights(self, values: PairValues, prior: Tensor, gt_index: Tensor, num_gts: int) -> tuple[Tensor, Tensor]:
        """Positive weight and P_neg of every pair."""
        score, iou = values.score, elementwise_iou(values.boxes, values.gt_boxes)
        if self.formula == "paper":
            positive = paper_positive_weight(score, iou, prior, gt_index, num_gts, beta=self.beta, mu=self.mu)
            return positive, paper_negative_probability(iou, gamma1=self.gamma1)
        box_loss = giou_loss(values.boxes, values.gt_boxes)
        positive = official_positive_weight(
            score, box_loss, prior, gt_index, num_gts, beta=self.beta, mu=self.mu, mu_normalizer=self.mu_normalizer
        )
        return positive, official_negative_probability(iou, gt_index, num_gts, gamma1=self.gamma1)

    def _negative_weight(self, score: Tensor, positive: Tensor, probability: Tensor) -> Tensor:
        """P_neg and I_neg of every pair, or the parts of them that are asked for. I_neg carries gradient (strongwolf/DW)."""
        if self.negative == "one_minus_positive":
            return (1 - positive).clamp(min=0)
        weight = probability if self.negative in ("full", "probability") else torch.ones_like(probability)
        if self.negative in ("full", "importance"):
            weight = weight * score**self.gamma2
        return torch.zeros_like(weight) if self.negative == "none" else weight
