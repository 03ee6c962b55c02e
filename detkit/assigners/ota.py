"""Optimal transport assignment (Ge et al., OTA: Optimal Transport Assignment for Object Detection, CVPR 2021)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detkit.geometry import elementwise_iou
from detkit.host import values_are_at_hand
from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .candidates import center_distance, hard_labels, points_inside
from .pair_costs import dynamic_counts, focal_costs, iou_cost
from .registry import ASSIGNER_REGISTRY
from .segments import best_of_each, group_logsumexp, group_max, group_sizes, group_sum, ranks_in_groups
from .soft import Pairs

__all__ = ["OTAAssigner", "TransportPlan", "transport_plan"]

#: cost of a location that lies inside the object but not in its center region (the authors' code has 1e6, which in float32 swallows the
#: differences between such locations)
OFF_CENTER = 1e4


class TransportPlan(NamedTuple):
    """Logarithms of what is moved.

    Attributes:
        objects: (M,) from each pair's object to its prior.
        background: (C,) from the background of its image to each candidate prior.
    """

    objects: Tensor
    background: Tensor


@ASSIGNER_REGISTRY.register()
class OTAAssigner(Assigner):
    """Objects supply labels, locations demand one each, the background supplies the rest: the cheapest plan, by Sinkhorn's iteration.

    The published code solves for all locations; those inside no object get their label from the background in any case, so that only
    candidates are computed here. Time: ``iterations`` times the candidates.

    Args:
        topk: IoUs whose sum is an object's supply (section 3.3: 20).
        iou_weight: of ``-ln(IoU)`` beside the focal loss (equation 4: 1.5).
        center_radius: strides around the center, per axis, within which locations are preferred (section 3.3).
        epsilon: how soft the plan is (section 3.2: 0.1).
        iterations: of Sinkhorn (50).
    """

    config_section = "OTA"
    needs_predictions = True

    def __init__(
        self, *, topk: int = 20, iou_weight: float = 1.5, center_radius: float = 2.5, epsilon: float = 0.1, iterations: int = 50
    ) -> None:
        super().__init__()
        self.topk, self.iou_weight, self.center_radius = topk, iou_weight, center_radius
        self.epsilon, self.iterations = epsilon, iterations

    def forward(self, context: AssignContext) -> HardAssignment:
        pairs, num_gts = points_inside(context), context.gt.valid.numel()
        values = pairs.look_up(context.given_predictions, context.gt)
        iou = elementwise_iou(values.boxes, values.gt_boxes)
        supply = dynamic_counts(iou, ranks_in_groups(-iou, pairs.gt_index, num_gts), pairs.gt_index, num_gts, self.topk)
        return hard_labels(pairs, context, self._choose(pairs, self._costs(pairs, context, iou), supply, context))

    def _costs(self, pairs: Pairs, context: AssignContext, iou: Tensor) -> Tensor:
        """(M,) cost of a positive minus that of the same prior as background: the plan depends on these differences alone."""
        positive, negative = focal_costs(pairs.look_up(context.given_predictions, context.gt))
        off_center = center_distance(pairs, context.gt, context.grid_priors).abs().amax(-1) >= self.center_radius
        return positive - negative + self.iou_weight * iou_cost(iou) + OFF_CENTER * off_center

    @staticmethod
    def _candidates(pairs: Pairs, num_priors: int, num_images: int) -> tuple[Tensor, Tensor]:
        """(M,) the number of each pair's prior among the C that have pairs, and (C,) the image of each of these.

        Where only the device knows C, it is M, and those that do not exist lie in an image behind the last one.
        """
        ordered, order = pairs.prior_index.sort()
        number = (ordered[1:] != ordered[:-1]).cumsum(0)
        number = torch.cat([number.new_zeros(min(len(ordered), 1)), number])
        candidate = torch.empty_like(number).scatter_(0, order, number)
        count = int(number[-1]) + 1 if len(number) and values_are_at_hand(number) else len(number)
        image = torch.div(ordered, num_priors, rounding_mode="floor")
        return candidate, image.new_full((count,), num_images).scatter_(0, number, image)

    def _choose(self, pairs: Pairs, cost: Tensor, supply: Tensor, context: AssignContext) -> Tensor:
        """Which pairs (M,) the plan makes positive: each prior goes where most comes from, measured by the most that the source gives to
        any prior (as the authors' code rescales the plan)."""
        num_gts, num_images = context.gt.valid.numel(), len(context.gt.boxes)
        candidate, image = self._candidates(pairs, context.grid_priors.num_priors, num_images)
        plan = transport_plan(cost, candidate, pairs.gt_index, supply, image, num_images + 1, self.epsilon, self.iterations)
        objects = plan.objects - group_max(plan.objects, pairs.gt_index, num_gts)[pairs.gt_index]
        background = plan.background - group_max(plan.background, image, num_images + 1)[image]
        return (objects > background[candidate]) & best_of_each(objects, candidate)


def transport_plan(
    cost: Tensor,
    candidate: Tensor,
    gt_index: Tensor,
    supply: Tensor,
    image: Tensor,
    num_images: int,
    epsilon: float,
    iterations: int,
) -> TransportPlan:
    """Sinkhorn's iteration on listed pairs (OTA, equations 6 to 10), in logarithms.

    Args:
        cost: (M,) of a pair, relative to the background's cost 0 for the same candidate.
        candidate: (M,) int64 in [0, C), the prior of each pair among those that have pairs.
        gt_index: (M,) int64, the object of each pair.
        supply: (B * G,) labels that each object has to give.
        image: (C,) int64, image of each candidate.
        num_images: B.
        epsilon: of the entropy.
        iterations: rounds.
    """
    num_candidates, num_gts = len(image), len(supply)
    of_pairs = -cost / epsilon
    gt_image = image.new_zeros(num_gts).scatter_(0, gt_index, image[candidate])  # objects without pairs give nothing
    given = group_sum(supply * (group_sizes(gt_index, num_gts) > 0), gt_image, num_images)
    rest = (group_sizes(image, num_images) - given).clamp(min=1e-3)
    log_supply, log_rest = supply.to(cost).log(), rest.to(cost).log()
    objects, background = cost.new_zeros(num_gts), cost.new_zeros(num_images)
    demand = cost.new_zeros(num_candidates)
    for _ in range(iterations):
        incoming = group_logsumexp(of_pairs + objects[gt_index], candidate, num_candidates)
        demand = -torch.logaddexp(incoming, background[image])  # each candidate demands one label
        objects = log_supply - group_logsumexp(of_pairs + demand[candidate], gt_index, num_gts)
        background = log_rest - group_logsumexp(demand, image, num_images)
    return TransportPlan(of_pairs + objects[gt_index] + demand[candidate], background[image] + demand)
