"""The weights of quality focal loss (Li et al., Generalized Focal Loss, NeurIPS 2020, equation 3; DW, table 1)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode

from detkit.geometry import elementwise_iou

from .base import AssignContext, Assigner
from .registry import ASSIGNER_REGISTRY, build_assigner
from .soft import SoftAssignment, counted_pairs

__all__ = ["GFLAssigner"]


@ASSIGNER_REGISTRY.register()
class GFLAssigner(Assigner):
    """Positives of a hard assigner learn the IoU t of their box as score: weights ``|s - t| ** 2`` times t and 1 - t, whose first factor
    carries gradient, as in the published loss.

    The box loss of a prior counts by its highest class probability, and boxes are divided by the sum of these weights (``gfl_head.py``).
    The distribution over distances, the other half of GFL, would be part of the head and is not implemented.

    Args:
        base: the hard assigner; ATSS in the paper.
        gamma: exponent of the first factor, the paper's beta.
        box_factor: of the box loss (section 4: 2).
    """

    config_section = "GFL"
    needs_predictions = True
    gives_weights = True

    def __init__(self, *, base: Assigner, gamma: float = 2.0, box_factor: float = 2.0) -> None:
        super().__init__()
        if base.gives_weights:
            raise ValueError(f"base must be an assigner of hard labels, not {type(base).__name__}.")
        self.base, self.gamma, self.box_factor = base, gamma, box_factor

    @classmethod
    def from_config(cls, cfg: CfgNode, **given: Any) -> dict[str, Any]:
        key = "MODEL.ASSIGNERS.GFL.BASE"
        base = build_assigner(cfg.MODEL.ASSIGNERS.GFL.BASE, cfg, key=key, takes_weights=False, **given)
        return super().from_config(cfg, **given) | {"base": base}

    def forward(self, context: AssignContext) -> SoftAssignment:
        predictions, gt = context.given_predictions, context.gt
        labels = self.base(context)
        pairs, counts = counted_pairs(labels, gt)
        values = pairs.look_up(predictions, gt)
        target = elementwise_iou(values.boxes.detach(), values.gt_boxes)
        distance = values.distance_to(target, self.gamma) * counts
        box_weight = predictions.logits.detach().amax(2).flatten().index_select(0, pairs.prior_index).sigmoid() * counts
        count = counts.to(target).sum()
        return SoftAssignment(
            pairs=pairs,
            values=values,
            positive_weight=target * distance,
            negative_weight=(1 - target) * distance,
            box_weight=self.box_factor * box_weight,
            normalizers=torch.stack([count, count, box_weight.sum()]),
            background_gamma=self.gamma,
            counts_negative=counts,
            ignore=labels.ignore,
        )
