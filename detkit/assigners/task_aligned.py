"""Task-aligned assignment (Feng et al., TOOD: Task-aligned One-stage Object Detection, ICCV 2021, section 3.2; DW, table 1)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from detkit.geometry import elementwise_iou

from .base import AssignContext, Assigner
from .candidates import points_inside
from .registry import ASSIGNER_REGISTRY
from .segments import best_of_each, group_max, ranks_in_groups
from .soft import LossForm, Pairs, SoftAssignment
from .windows import padding_mask

__all__ = ["TaskAlignedAssigner", "alignment_metric", "normalized_alignment"]


def alignment_metric(score: Tensor, iou: Tensor, *, alpha: float = 1.0, beta: float = 6.0) -> Tensor:
    """``t = s ** alpha * u ** beta`` (equation 8) of scores and IoUs of pairs (M,)."""
    return score**alpha * iou**beta


def normalized_alignment(metric: Tensor, iou: Tensor, gt_index: Tensor, num_gts: int) -> Tensor:
    """The metric of each object's positives (M,), scaled so that the largest is the object's largest IoU (section 3.2, "training
    sample loss")."""
    largest = group_max(metric, gt_index, num_gts).clamp(min=torch.finfo(metric.dtype).tiny)
    return metric * (group_max(iou, gt_index, num_gts) / largest)[gt_index]


@ASSIGNER_REGISTRY.register()
class TaskAlignedAssigner(Assigner):
    """The locations inside an object where score and IoU agree best are positive; they learn the normalized agreement as score, with
    quality focal loss, and their boxes count by it.

    A location wanted by several objects goes to the highest IoU, then to the lowest index. The published training begins with four epochs
    of ATSS and focal loss (``initial_epoch``), which is not here: there is one assignment from the first step on.

    Args:
        topk: positives per object (section 4.1: 13).
        alpha, beta: exponents of score and IoU (1 and 6).
        gamma: exponent of the focal factor ``|s - t| ** gamma`` (equation 11).
        box_factor: of the box loss (2).
    """

    needs_predictions = True
    gives_weights = True

    @configurable
    def __init__(self, *, topk: int = 13, alpha: float = 1.0, beta: float = 6.0, gamma: float = 2.0, box_factor: float = 2.0) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"MODEL.ASSIGNERS.TASK_ALIGNED.TOPK must be at least 1, not {topk}.")
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.form = LossForm(positive_focus="target", negative_focus="target", gamma=gamma, background_gamma=gamma, box=box_factor)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.ASSIGNERS.TASK_ALIGNED
        return {"topk": node.TOPK, "alpha": node.ALPHA, "beta": node.BETA, "gamma": node.GAMMA, "box_factor": node.BOX_FACTOR}

    @torch.no_grad()
    def forward(self, context: AssignContext) -> SoftAssignment:
        pairs, metric, iou = self._positives(context)
        target = normalized_alignment(metric, iou, pairs.gt_index, context.gt.valid.numel())
        return SoftAssignment(
            pairs,
            positive_weight=target,
            negative_weight=1 - target,
            box_weight=target,
            normalizers=target.sum().expand(3),
            form=self.form,
            target=target,
            ignore=padding_mask(context.grid_priors, context.valid_sizes),
        )

    def _positives(self, context: AssignContext) -> tuple[Pairs, Tensor, Tensor]:
        """The chosen pairs, at most one per prior, with their metric and IoU."""
        pairs = points_inside(context)
        values = pairs.look_up(context.given_predictions, context.gt)
        iou = elementwise_iou(values.boxes, values.gt_boxes)
        metric = alignment_metric(values.score, iou, alpha=self.alpha, beta=self.beta)
        best = ranks_in_groups(-metric, pairs.gt_index, context.gt.valid.numel()) < self.topk
        pairs, metric, iou = pairs.select(best), metric[best], iou[best]
        winners = best_of_each(iou, pairs.prior_index)
        return pairs.select(winners), metric[winners], iou[winners]
