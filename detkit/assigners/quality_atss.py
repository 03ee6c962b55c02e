"""Adaptive many-to-one assignment by predicted quality, of an auxiliary loss (Wang et al., End-to-End Object Detection with Fully
Convolutional Network, CVPR 2021, arXiv 2012.03544, section 3.4)."""

from __future__ import annotations

from torch import Tensor

from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .candidates import hard_labels, points_inside
from .pair_costs import matching_quality
from .registry import ASSIGNER_REGISTRY
from .segments import best_of_each, group_sum, ranks_in_groups

__all__ = ["QualityATSSAssigner"]


@ASSIGNER_REGISTRY.register()
class QualityATSSAssigner(Assigner):
    """As ATSS, by the quality ``score ** (1 - alpha) * IoU ** alpha`` of what is predicted in the place of the anchors' IoU: the ``topk``
    best locations of each level are candidates, and those at least as good as the mean plus the standard deviation of all of them are
    positive. A location wanted by several objects goes to the highest quality, then to the lowest index.

    Candidates lie inside the object (the authors' code takes the best of all locations, and drops those outside in the end).

    Args:
        topk: candidates per level (9).
        alpha: how much the box counts beside the class (0.8).
    """

    config_section = "QUALITY_ATSS"
    needs_predictions = True

    def __init__(self, *, topk: int = 9, alpha: float = 0.8) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"topk must be at least 1, not {topk}.")
        self.topk, self.alpha = topk, alpha

    def forward(self, context: AssignContext) -> HardAssignment:
        priors, num_gts = context.grid_priors, context.gt.valid.numel()
        pairs = points_inside(context)
        quality = matching_quality(pairs.look_up(context.given_predictions, context.gt), self.alpha)
        num_levels = priors.grid.num_levels
        group = pairs.gt_index * num_levels + priors.levels_of(pairs.prior_index % priors.num_priors)
        candidate = ranks_in_groups(-quality, group, num_gts * num_levels) < self.topk
        enough = quality >= _threshold(quality, pairs.gt_index, num_gts, candidate).index_select(0, pairs.gt_index)
        return hard_labels(pairs, context, best_of_each(quality, pairs.prior_index, among=candidate & enough))


def _threshold(quality: Tensor, gt_index: Tensor, num_gts: int, candidate: Tensor) -> Tensor:
    """(num_gts,) mean plus standard deviation (that of a sample, 0 of a single one) of each object's candidates."""
    wide, counted = quality.double(), candidate.double()
    count = group_sum(counted, gt_index, num_gts).clamp(min=1)
    mean = group_sum(wide * counted, gt_index, num_gts) / count
    deviation = (wide - mean.index_select(0, gt_index)) * counted
    variance = group_sum(deviation.square(), gt_index, num_gts) / (count - 1).clamp(min=1)
    return (mean + variance.sqrt()).to(quality)  # computed in float64, so that equal ones are not below their own mean
