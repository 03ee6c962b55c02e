"""Bipartite matching: one prediction for each object (DETR, section 3.1; Sparse R-CNN, section 3, equation 1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .costs import focal_class_cost, giou_cost, l1_cost, softmax_class_cost
from .matching import match
from .registry import ASSIGNER_REGISTRY
from .windows import padding_mask

__all__ = ["HungarianAssigner"]

#: cost of a prediction in the padding, above all others; float64, in which they are matched, still tells those apart beside it
_NEVER = 1e9
#: logits (B, P, K) and classes (B, G) to costs (B, P, G)
ClassCost = Callable[[Tensor, Tensor], Tensor]


@ASSIGNER_REGISTRY.register()
class HungarianAssigner(Assigner):
    """Each object gets the one prediction that makes the total cost of classes and boxes least; all others are background.

    It reads predictions only, so it serves set predictors, which have no priors, and dense heads alike. Several stages are matched in
    one call as more images. Costs are computed in float32, also under autocast. With more objects than predictions, some objects stay
    without one.

    Args:
        class_cost: e.g. :func:`detkit.assigners.costs.focal_class_cost`.
        class_weight, l1_weight, giou_weight: factors of the three costs.
    """

    config_section = "HUNGARIAN"
    compiles = True
    needs_predictions = True
    needs_priors = False

    def __init__(
        self,
        *,
        class_cost: ClassCost = focal_class_cost,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
    ) -> None:
        super().__init__()
        self.class_cost = class_cost
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, **given: Any) -> dict[str, Any]:
        arguments = super().from_config(cfg, **given)
        focal = {name: arguments.pop(key) for name, key in (("alpha", "focal_alpha"), ("gamma", "focal_gamma"), ("eps", "eps"))}
        class_costs: dict[str, ClassCost] = {"focal": partial(focal_class_cost, **focal), "softmax": softmax_class_cost}
        return arguments | {"class_cost": class_costs[arguments["class_cost"]]}

    def forward(self, context: AssignContext) -> HardAssignment:
        """Waits for the device once, for the costs of all images.

        Raises:
            NonFiniteCostError: predictions are NaN or infinite; ``problems`` are the positions of the images.
            ValueError: the context lacks predictions or image sizes.
        """
        costs = self.costs(context)
        padding = None if context.priors is None else padding_mask(context.priors, context.valid_sizes)
        if padding is None:
            return HardAssignment(match(costs, context.gt.valid))
        gt_index = match(costs.masked_fill(padding[..., None], _NEVER), context.gt.valid)
        return HardAssignment(gt_index.masked_fill(padding, -1), padding)

    def costs(self, context: AssignContext) -> Tensor:
        """Costs (B, P, G) of each prediction for each padded object."""
        predictions, gt = context.predictions, context.gt
        if predictions is None or context.image_sizes is None:
            raise ValueError("The HungarianAssigner needs AssignContext.predictions and AssignContext.image_sizes.")
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            classes = self.class_weight * self.class_cost(predictions.logits, gt.classes)
            distances = self.l1_weight * l1_cost(predictions.boxes, gt.boxes, context.image_sizes)
            overlaps = self.giou_weight * giou_cost(predictions.boxes, gt.boxes)
            return distances + classes + overlaps
