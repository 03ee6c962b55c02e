"""The weights of varifocal loss (Zhang et al., VarifocalNet, CVPR 2021, equation 2; DW, table 1)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode

from detkit.geometry import elementwise_iou

from .base import AssignContext, Assigner
from .registry import ASSIGNER_REGISTRY, build_assigner
from .soft import SoftAssignment, counted_pairs

__all__ = ["VFLAssigner"]


@ASSIGNER_REGISTRY.register()
class VFLAssigner(Assigner):
    """Positives of a hard assigner learn the IoU t of their box as score, and count by it: weights t times t and 1 - t. Only the
    background is focused on hard examples. Boxes count by t, and are divided by its sum (``vfnet_head.py``).

    Args:
        base: the hard assigner; ATSS in the paper.
        gamma, alpha: exponent and factor of the background (section 3.2: 2 and 0.75).
        box_factor: of the box loss (section 3.5: 1.5).
    """

    config_section = "VFL"
    needs_predictions = True
    gives_weights = True

    def __init__(self, *, base: Assigner, gamma: float = 2.0, alpha: float = 0.75, box_factor: float = 1.5) -> None:
        super().__init__()
        if base.gives_weights:
            raise ValueError(f"base must be an assigner of hard labels, not {type(base).__name__}.")
        self.base, self.gamma, self.alpha, self.box_factor = base, gamma, alpha, box_factor

    @classmethod
    def from_config(cls, cfg: CfgNode, **given: Any) -> dict[str, Any]:
        key = "MODEL.ASSIGNERS.VFL.BASE"
        base = build_assigner(cfg.MODEL.ASSIGNERS.VFL.BASE, cfg, key=key, takes_weights=False, **given)
        return super().from_config(cfg, **given) | {"base": base}

    def forward(self, context: AssignContext) -> SoftAssignment:
        labels = self.base(context)
        pairs, counts = counted_pairs(labels, context.gt)
        values = pairs.look_up(context.given_predictions, context.gt)
        target = elementwise_iou(values.boxes.detach(), values.gt_boxes) * counts
        count = counts.to(target).sum()
        return SoftAssignment(
            pairs=pairs,
            values=values,
            positive_weight=target * target,
            negative_weight=target * (1 - target),
            box_weight=self.box_factor * target,
            normalizers=torch.stack([count, count, target.sum()]),
            background_factor=self.alpha,
            background_gamma=self.gamma,
            counts_negative=counts,
            ignore=labels.ignore,
        )
