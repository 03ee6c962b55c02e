"""Mutual supervision in the frame of DW (Gao et al., Mutual Supervision for Dense Object Detection, ICCV 2021; DW, table 1)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable

from detkit.geometry import elementwise_iou

from .base import AssignContext, Assigner
from .candidates import points_inside
from .registry import ASSIGNER_REGISTRY
from .soft import LossForm, SoftAssignment
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

    needs_predictions = True
    gives_weights = True

    @configurable
    def __init__(self, *, lean: float = 0.2, sharpness: float = 5.0, box_factor: float = 2.0) -> None:
        super().__init__()
        if not 0 <= lean <= 0.5:
            raise ValueError(f"MODEL.ASSIGNERS.MUSU.LEAN must lie in [0, 0.5], not {lean}.")
        self.lean, self.sharpness = lean, sharpness
        self.form = LossForm(positive_focus="target", box=box_factor)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.ASSIGNERS.MUSU
        return {"lean": node.LEAN, "sharpness": node.SHARPNESS, "box_factor": node.BOX_FACTOR}

    @torch.no_grad()
    def forward(self, context: AssignContext) -> SoftAssignment:
        gt, predictions = context.gt, context.given_predictions
        pairs = points_inside(context)
        values = pairs.look_up(predictions, gt)
        score, iou = values.score, elementwise_iou(values.boxes, values.gt_boxes)
        leading, following = self.sharpness * (1 - self.lean), self.sharpness * self.lean
        target = normalized_alignment(iou**leading * score**following, iou, pairs.gt_index, gt.valid.numel())
        box_weight = normalized_alignment(score**leading * iou**following, iou, pairs.gt_index, gt.valid.numel())
        return SoftAssignment(
            pairs,
            positive_weight=target,
            negative_weight=(1 - target) ** 4,
            box_weight=box_weight,
            normalizers=torch.stack([target.sum(), target.sum(), box_weight.sum()]),
            form=self.form,
            target=target,
            owns_score=pairs.owns_score(gt, predictions.logits.shape[-1]),
            ignore=padding_mask(context.grid_priors, context.valid_sizes),
        )
