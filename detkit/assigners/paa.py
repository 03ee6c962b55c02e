"""Probabilistic anchor assignment (Kim and Lee, Probabilistic Anchor Assignment with IoU Prediction, ECCV 2020, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.losses import giou_loss
from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .candidates import hard_labels, points_inside
from .pair_costs import focal_costs
from .registry import ASSIGNER_REGISTRY
from .segments import best_of_each, ranks_in_groups
from .soft import Pairs

__all__ = ["PAAAssigner", "low_cost_component"]


@ASSIGNER_REGISTRY.register()
class PAAAssigner(Assigner):
    """A mixture of two Gaussians, fitted to the losses of an object's best candidates, decides which of them are positive.

    Candidates are the locations inside the object, the ``topk`` with the least loss on each level (the published code takes the anchors
    that overlap the object by an IoU of 0.1 or more, each for one object only). A location wanted by several objects goes to the least
    loss, then to the lowest index. The paper trains an IoU branch beside: ``LOSS.QUALITY: "iou"``.

    Args:
        topk: candidates per level (section 3.2, K = 9).
        box_factor: of the GIoU loss beside the focal loss (the authors' code: 1.3).
        iterations: of the fit.
    """

    config_section = "PAA"
    needs_predictions = True
    needs_anchors = True

    def __init__(self, *, topk: int = 9, box_factor: float = 1.3, iterations: int = 20) -> None:
        super().__init__()
        self.topk, self.box_factor, self.iterations = topk, box_factor, iterations

    def forward(self, context: AssignContext) -> HardAssignment:
        pairs, loss, best = self._candidates(context)
        num_gts, width = context.gt.valid.numel(), self.topk * context.grid_priors.grid.num_levels
        ranks = ranks_in_groups(torch.where(best, loss, torch.inf), pairs.gt_index, num_gts)
        place = torch.where(best, pairs.gt_index * width + ranks, num_gts * width)  # the last place is for all the others
        table = loss.new_full((num_gts * width + 1,), torch.inf).scatter(0, place, loss)[:-1].view(num_gts, width)
        low = low_cost_component(table, iterations=self.iterations).flatten()
        positive = torch.cat([low, low.new_zeros(1)])[place]
        return hard_labels(pairs, context, best_of_each(-loss, pairs.prior_index, among=positive))

    def _candidates(self, context: AssignContext) -> tuple[Pairs, Tensor, Tensor]:
        """The pairs inside objects, their loss, and whether it is among the least of their object and level."""
        gt, priors = context.gt, context.grid_priors
        pairs = points_inside(context)
        values = pairs.look_up(context.given_predictions, gt)
        positive, negative = focal_costs(values)
        loss = positive - negative + self.box_factor * giou_loss(values.boxes, values.gt_boxes)
        num_levels = priors.grid.num_levels
        group = pairs.gt_index * num_levels + priors.levels_of(pairs.prior_index % priors.num_priors)
        return pairs, loss, ranks_in_groups(loss, group, gt.valid.numel() * num_levels) < self.topk


def low_cost_component(cost: Tensor, *, iterations: int = 20) -> Tensor:
    """Which costs belong to the lower of two Gaussians (equations 8 and 9), and are not above the point of highest density in it (figure
    3 c of the paper).

    All rows are fitted at once by expectation maximization, from the smallest and the largest cost as means, unit variances and equal
    shares, as in the published code. A row with one cost is positive, one without is empty.

    Args:
        cost: (N, T), ascending in every row, inf where there is none.
        iterations: of the fit.

    Returns:
        (N, T) bool.
    """
    exists = cost.isfinite()
    x = torch.where(exists, cost, torch.zeros_like(cost)).double()[..., None]  # (N, T, 1)
    weight = exists[..., None].double()
    largest = torch.where(exists, cost, cost.new_full((), -torch.inf)).amax(1)
    means = torch.stack([cost.amin(1), largest], dim=1).nan_to_num(0, 0, 0).double()[:, None]  # (N, 1, 2)
    variances, shares = torch.ones_like(means), torch.full_like(means, 0.5)
    log_density = _log_density(x, means, variances, shares)
    for _ in range(iterations):
        membership = log_density.softmax(-1) * weight
        total = membership.sum(1, keepdim=True).clamp(min=1e-12)
        means = (membership * x).sum(1, keepdim=True) / total
        variances = (membership * (x - means).square()).sum(1, keepdim=True) / total + 1e-6
        shares = total / weight.sum(1, keepdim=True).clamp(min=1)
        log_density = _log_density(x, means, variances, shares)
    low = (log_density[..., 0] >= log_density[..., 1]) & exists
    density = log_density.logsumexp(-1).masked_fill(~low, -torch.inf)
    up_to_peak = torch.arange(cost.shape[1], device=cost.device) <= density.argmax(1, keepdim=True)
    return low & up_to_peak


def _log_density(x: Tensor, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """(N, T, 2) logarithm of share times density of each component, up to a constant."""
    return shares.log() - 0.5 * (variances.log() + (x - means).square() / variances)
