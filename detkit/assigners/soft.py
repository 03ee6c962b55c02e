"""Weighted pairs of priors and objects.

Shapes: M counts the pairs of the whole batch; the other symbols are defined in :mod:`detkit.structures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from detkit.host import values_are_at_hand
from detkit.losses import chosen_logits, negative_log_rest, softplus
from detkit.structures import GroundTruth, HardAssignment, Predictions

__all__ = ["Assignment", "BagAssignment", "PairValues", "Pairs", "SoftAssignment", "counted_pairs", "hard_pairs"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of a prior and an object; each may occur in several pairs. Listed object by object.

    Attributes:
        prior_index: (M,) int64 in [0, B * P): priors of the batch, image by image.
        gt_index: (M,) int64 in [0, B * G), ascending: objects of the batch, image by image, counting the padded ones.
        sizes: (B * G,) how many pairs each object has, on the host, where it is known there.
    """

    prior_index: Tensor
    gt_index: Tensor
    sizes: np.ndarray | None = None

    def classes(self, gt: GroundTruth) -> Tensor:
        """(M,) int64, the class of each pair's object."""
        return gt.classes.flatten().index_select(0, self.gt_index)

    def gt_boxes(self, gt: GroundTruth) -> Tensor:
        """(M, 4) the box of each pair's object."""
        return select_boxes(gt.boxes, self.gt_index)

    def score_index(self, gt: GroundTruth, num_classes: int) -> Tensor:
        """(M,) int64, index into flattened logits (B, P, K) of the score of the pair's prior for the class of its object."""
        return self.prior_index * num_classes + self.classes(gt)

    def look_up(self, predictions: Predictions, gt: GroundTruth) -> PairValues:
        """What the detector predicts for each pair, with gradient if the predictions have one."""
        logit, all_logits = chosen_logits(predictions.logits, self.prior_index, self.classes(gt))
        return PairValues(
            logit=logit,
            quality=None if predictions.quality is None else predictions.quality.flatten().gather(0, self.prior_index),
            boxes=select_boxes(predictions.boxes, self.prior_index),
            gt_boxes=self.gt_boxes(gt),
            all_logits=all_logits,
        )

    def select(self, keep: Tensor) -> Pairs:
        """The pairs that a mask (M,) or indices choose. A mask waits for the device."""
        return Pairs(self.prior_index[keep], self.gt_index[keep])

    def last_of_score(self, gt: GroundTruth, logits: Tensor) -> Tensor:
        """(M,) bool: whether no later pair has the same prior and the same class, of logits (B, P, K).

        Where objects of one class overlap, their common priors have one score and several pairs; the negative weight of that score is
        the one of the object that stands last (strongwolf/DW on a CPU).
        """
        index = self.score_index(gt, logits.shape[-1])
        if logits.numel() <= torch.iinfo(torch.int32).max:
            index = index.int()  # sorted in half the time
        index, order = index.sort(stable=True)
        is_last = torch.ones_like(index, dtype=torch.bool)
        is_last[:-1] = index[1:] != index[:-1]
        return torch.empty_like(is_last).scatter_(0, order, is_last)


def select_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """(M, 4) of boxes (B, N, 4), by index in [0, B * N). Each coordinate lies in a row of memory, where arithmetic on it is fast."""
    return boxes.flatten(0, 1).t().contiguous().index_select(1, index).t()


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
        all_logits: (B, P, K) the logits out of which ``logit`` was looked up, for losses that are computed of both; None: not told.
    """

    logit: Tensor
    quality: Tensor | None
    boxes: Tensor
    gt_boxes: Tensor
    all_logits: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """(M,) s in [0, 1]."""
        return self.logit.sigmoid() if self.quality is None else self.logit.sigmoid() * self.quality.sigmoid()

    @property
    def positive_nll(self) -> Tensor:
        """(M,) ``-ln(s)``."""
        return softplus(-self.logit) if self.quality is None else softplus(-self.logit) + softplus(-self.quality)

    @property
    def negative_nll(self) -> Tensor:
        """(M,) ``-ln(1 - s)``."""
        return softplus(self.logit) if self.quality is None else negative_log_rest(self.score)

    def distance_to(self, target: Tensor, gamma: float = 2.0) -> Tensor:
        """(M,) ``|s - target| ** gamma``: how far scores are from what they should be (quality focal loss)."""
        return (self.score - target).abs() ** gamma

    def select(self, keep: Tensor) -> PairValues:
        """The values of the pairs that a mask or indices choose."""
        quality = None if self.quality is None else self.quality[keep]
        return PairValues(self.logit[keep], quality, self.boxes[keep], self.gt_boxes[keep], self.all_logits)

    def detach(self) -> PairValues:
        """The same values without gradient, for weights that are constants of the loss."""
        quality = None if self.quality is None else self.quality.detach()
        return PairValues(self.logit.detach(), quality, self.boxes.detach(), self.gt_boxes)


@dataclass(frozen=True, kw_only=True)
class _WeightedPairs:
    """What both kinds of weighted pairs have.

    Attributes:
        pairs: the M pairs. All scores that no pair has are background.
        values: what is predicted for the pairs, with gradient: the loss is computed of these.
        positive_weight, negative_weight: (M,) >= 0; gradient that they carry flows.
        normalizers: (3,) what the sums of positives, negatives and boxes of this batch are divided by, on this worker, before the mean
            over the workers is taken.
        background_factor, background_gamma: the background's loss is ``factor * s ** gamma * -ln(1 - s)`` per score (focal loss: gamma 2).
        counts_negative: (M,) bool, the one of several pairs with the same score whose negative weight counts. None: no two have the same.
        ignore: (B, P) bool, priors that take no part; None: none.
        extra_losses: losses of the assigner's own parameters, by name (``loss_<term>``).
    """

    pairs: Pairs
    values: PairValues
    positive_weight: Tensor
    negative_weight: Tensor
    normalizers: Tensor
    background_factor: float = 1.0
    background_gamma: float = 2.0
    counts_negative: Tensor | None = None
    ignore: Tensor | None = None
    extra_losses: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SoftAssignment(_WeightedPairs):
    """Pairs whose losses are weighted. With the score s of a pair and its box loss L, the loss is the sum over pairs of::

        positive_weight * -ln(s)  +  negative_weight * -ln(1 - s)  +  box_weight * L

    Factors of the terms and functions of the score that a published loss multiplies with gradient are part of the weights.

    Attributes:
        box_weight: (M,) >= 0, of the box loss.
    """

    box_weight: Tensor

    @classmethod
    def from_hard(
        cls, assignment: HardAssignment, gt: GroundTruth, predictions: Predictions, *, alpha: float = 0.25, box_weight: float = 1.0
    ) -> SoftAssignment:
        """Hard labels as weights, so that a loss written for weighted pairs serves both: with focal loss (Lin et al., ICCV 2017)."""
        pairs, counts = counted_pairs(assignment, gt)
        values = pairs.look_up(predictions, gt)
        one = counts.to(values.logit)
        return cls(
            pairs=pairs,
            values=values,
            positive_weight=alpha * one * values.distance_to(one),
            negative_weight=torch.zeros_like(one),
            box_weight=box_weight * one,
            normalizers=one.sum().expand(3),
            background_factor=1 - alpha,
            counts_negative=counts,
            ignore=assignment.ignore,
        )


@dataclass(frozen=True, kw_only=True)
class BagAssignment(_WeightedPairs):
    """Pairs whose scores are weighted (AutoAssign, equation 8): all pairs of an object are a bag that contains it.

    The loss is ``positive_factor * -ln(sum over pairs of positive_weight * s * exp(-box_sharpness * L))`` of every object, and with
    ``r = negative_weight * s`` the sum of ``negative_factor * r ** background_gamma * -ln(1 - r)``.

    Attributes:
        positive_factor, negative_factor: of the two terms.
        box_sharpness: factor of the box loss L.
    """

    positive_factor: float = 1.0
    negative_factor: float = 1.0
    box_sharpness: float = 1.0


#: what an assigner may give
Assignment: TypeAlias = HardAssignment | SoftAssignment | BagAssignment


def hard_pairs(assignment: Assignment, gt: GroundTruth) -> Pairs:
    """The positive priors of hard labels, each with its object. Waits for the device.

    Raises:
        TypeError: the assignment weights pairs.
    """
    if not isinstance(assignment, HardAssignment):
        raise TypeError(f"Hard labels are needed, not {type(assignment).__name__}.")
    image, prior = (assignment.gt_index >= 0).nonzero(as_tuple=True)
    num_priors, num_gts = assignment.gt_index.shape[1], gt.classes.shape[1]
    gt_index, order = (image * num_gts + assignment.gt_index[image, prior]).sort(stable=True)
    return Pairs((image * num_priors + prior)[order], gt_index)


def counted_pairs(assignment: Assignment, gt: GroundTruth) -> tuple[Pairs, Tensor]:
    """The positive priors of hard labels, each with its object, without waiting for the device.

    Returns:
        pairs, and (M,) bool which of them count: on the host they are :func:`hard_pairs`, which all do; on a device, which knows how many
        there are, every prior is in a pair (in the order of priors) and the positive ones count.

    Raises:
        TypeError: the assignment weights pairs.
    """
    if not isinstance(assignment, HardAssignment) or values_are_at_hand(assignment.gt_index):
        pairs = hard_pairs(assignment, gt)
        return pairs, torch.ones_like(pairs.gt_index, dtype=torch.bool)
    batch, num_gts = gt.classes.shape
    gt_index = assignment.gt_index if num_gts else assignment.gt_index[:, :0]
    images = torch.arange(batch, device=gt_index.device)[:, None]
    priors = torch.arange(gt_index.shape[1], device=gt_index.device) + images * assignment.gt_index.shape[1]
    return Pairs(priors.flatten(), (images * num_gts + gt_index.clamp(min=0)).flatten()), (gt_index >= 0).flatten()
