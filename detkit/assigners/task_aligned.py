"""Task-aligned assignment (Feng et al., TOOD: Task-aligned One-stage Object Detection, ICCV 2021, section 3.2; DW, table 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from detkit.geometry import elementwise_iou
from detkit.host import on_host

from .base import AssignContext, Assigner
from .candidates import points_inside
from .registry import ASSIGNER_REGISTRY
from .segments import best_in_groups, best_of_each, group_max, group_sizes
from .soft import Pairs, PairValues, SoftAssignment
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

    config_section = "TASK_ALIGNED"
    needs_predictions = True
    gives_weights = True

    def __init__(self, *, topk: int = 13, alpha: float = 1.0, beta: float = 6.0, gamma: float = 2.0, box_factor: float = 2.0) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"topk must be at least 1, not {topk}.")
        self.topk, self.alpha, self.beta, self.gamma, self.box_factor = topk, alpha, beta, gamma, box_factor

    def forward(self, context: AssignContext) -> SoftAssignment:
        pairs, num_gts = points_inside(context), context.gt.valid.numel()
        values = pairs.look_up(context.given_predictions, context.gt)
        best, wins, metric, iou = self._choose(pairs, values.detach(), num_gts)
        pairs, values = pairs.select(best), values.select(best)
        target = normalized_alignment(metric * wins, iou * wins, pairs.gt_index, num_gts)
        distance = values.distance_to(target, self.gamma)
        return SoftAssignment(
            pairs=pairs,
            values=values,
            positive_weight=target * distance,
            negative_weight=(1 - target) * distance,
            box_weight=self.box_factor * target,
            normalizers=target.sum().expand(3),
            background_gamma=self.gamma,
            counts_negative=wins,
            ignore=padding_mask(context.grid_priors, context.valid_sizes),
        )

    def _choose(self, pairs: Pairs, values: PairValues, num_gts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best pairs of every object (N,), as places in the list; whether they win their prior; metric and IoU of the best.

        One that does not win stays in the list, with weights of zero, so that N follows from the objects alone.
        """
        iou = elementwise_iou(values.boxes, values.gt_boxes)
        metric = alignment_metric(values.score, iou, alpha=self.alpha, beta=self.beta)
        sizes = on_host(group_sizes(pairs.gt_index, num_gts)) if pairs.sizes is None else pairs.sizes
        best = best_in_groups(-metric, pairs.gt_index, sizes, self.topk)
        return best, best_of_each(iou[best], pairs.prior_index[best]), metric[best], iou[best]
