"""Minimum cost assignment (Sun et al., What Makes for End-to-End Object Detection?, ICML 2021, arXiv 2012.05780: OneNet)."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.losses import giou_loss
from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .candidates import hard_labels, points_inside
from .one_to_one import best_pairs, greedy_matching
from .pair_costs import focal_costs
from .registry import ASSIGNER_REGISTRY
from .soft import Pairs

__all__ = ["OneNetAssigner"]


@ASSIGNER_REGISTRY.register()
class OneNetAssigner(Assigner):
    """Each object takes the one location whose class and box fit it at the least cost; all others are background.

    Candidates lie inside the object; the authors' code takes all locations. Where two objects want the same one, the cheaper has it, then
    the one that stands first, and the other takes its next one; the published code lets them share it. An object without a location
    inside, or whose locations all went to others, gets none.

    Args:
        class_weight: of the focal loss of the object's class as positive minus that as negative (2).
        l1_weight: of the summed distance of the four coordinates relative to the image (5).
        giou_weight: of minus the generalized IoU (2).
    """

    config_section = "ONENET"
    needs_predictions = True

    def __init__(self, *, class_weight: float = 2.0, l1_weight: float = 5.0, giou_weight: float = 2.0) -> None:
        super().__init__()
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight

    def forward(self, context: AssignContext) -> HardAssignment:
        batch, num_gts = context.gt.valid.shape
        pairs = points_inside(context)
        cost = self._costs(pairs, context)
        value = (-cost).clamp(min=torch.finfo(cost.dtype).min)  # of an endless cost, too: without a match its loss would be silent
        best, kept = best_pairs(value, pairs, num_gts)
        num_priors = batch * context.grid_priors.num_priors
        chosen = greedy_matching(value.index_select(0, best), kept, batch * num_gts, num_priors, num_gts)
        return hard_labels(kept, context, chosen)

    def _costs(self, pairs: Pairs, context: AssignContext) -> Tensor:
        """(M,) of the pairs.

        Raises:
            ValueError: the context lacks image sizes.
        """
        if context.image_sizes is None:
            raise ValueError("The OneNetAssigner needs AssignContext.image_sizes.")
        values = pairs.look_up(context.given_predictions, context.gt)
        positive, negative = focal_costs(values)
        image = torch.div(pairs.gt_index, max(context.gt.valid.shape[1], 1), rounding_mode="floor")
        size = context.image_sizes.flip(1).repeat(1, 2).index_select(0, image)  # width, height, width, height
        distance = ((values.boxes - values.gt_boxes).abs() / size).sum(-1)
        giou = 1 - giou_loss(values.boxes, values.gt_boxes)
        return self.class_weight * (positive - negative) + self.l1_weight * distance - self.giou_weight * giou
