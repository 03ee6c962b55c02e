"""Mutual supervision in the frame of DW (Gao et al., Mutual Supervision for Dense Object Detection, ICCV 2021; DW, table 1)."""

from __future__ import annotations

import torch

from detkit.geometry import elementwise_iou

from .base import AssignContext, Assigner
from .candidates import points_inside
from .registry import ASSIGNER_REGISTRY
from .soft import SoftAssignment
from .task_aligned import normalized_alignment
from .windows import padding_mask

__all__ = ["MuSuAssigner"]


@ASSIGNER_REGISTRY.register()
class MuSuAssigner(Assigner):
    """The boxes say where to classify, the scores say where to regress.

    The weights are those of DW, table 1: ``(s - t) ** 2 * t`` and ``s ** 2 * (1 - t) ** 4``. Table 1 leaves the metric t open ("f(IoU,
    s)"), and MuSu makes its targets from ranks within the candidates; here t is ``s ** lean * IoU ** (1 - lean)`` raised to ``sharpness``
    for the classes and the same with s and IoU exchanged for the boxes, scaled so that an object's largest is its largest IoU. So this
    compares MuSu's weighting in DW's frame, and is no reproduction of MuSu.

    Where objects overlap, each has pairs of its own with their common locations; of one class, the object that stands last decides
    the negative weight.

    Args:
        lean: how much the less important of score and IoU counts, in [0, 0.5].
        sharpness: exponent, so that few candidates have a large t.
        box_factor: of the box loss.
    """

    config_section = "MUSU"
    needs_predictions = True
    gives_weights = True

    def __init__(self, *, lean: float = 0.2, sharpness: float = 5.0, box_factor: float = 2.0) -> None:
        super().__init__()
        if not 0 <= lean <= 0.5:
            raise ValueError(f"lean must lie in [0, 0.5], not {lean}.")
        self.lean, self.sharpness, self.box_factor = lean, sharpness, box_factor

    def forward(self, context: AssignContext) -> SoftAssignment:
        gt, predictions = context.gt, context.given_predictions
        pairs = points_inside(context)
        values = pairs.look_up(predictions, gt)
        fixed = values.detach()
        score, iou = fixed.score, elementwise_iou(fixed.boxes, fixed.gt_boxes)
        leading, following = self.sharpness * (1 - self.lean), self.sharpness * self.lean
        target = normalized_alignment(iou**leading * score**following, iou, pairs.gt_index, gt.valid.numel())
        box_weight = normalized_alignment(score**leading * iou**following, iou, pairs.gt_index, gt.valid.numel())
        return SoftAssignment(
            pairs=pairs,
            values=values,
            positive_weight=target * values.distance_to(target),
            negative_weight=(1 - target) ** 4 * values.score.square(),
            box_weight=self.box_factor * box_weight,
            normalizers=torch.stack([target.sum(), target.sum(), box_weight.sum()]),
            counts_negative=pairs.last_of_score(gt, predictions.logits),
            ignore=padding_mask(context.grid_priors, context.valid_sizes),
        )
