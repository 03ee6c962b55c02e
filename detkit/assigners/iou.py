"""Label assignment by fixed IoU thresholds (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4; Ren et al., Faster
R-CNN, NIPS 2015, section 3.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.geometry import elementwise_iou
from detkit.structures import GroundTruth, HardAssignment

from .atss import center_inside
from .base import AssignContext, Assigner
from .registry import ASSIGNER_REGISTRY
from .windows import padding_mask

__all__ = ["IoUAssigner"]


@ASSIGNER_REGISTRY.register()
class IoUAssigner(Assigner):
    """Each anchor goes to the object that it overlaps most (the lowest index at equal IoU), if it overlaps it enough.

    The labels are those of Detectron2's ``Matcher``, with one difference: an object that overlaps no anchor at all gets none, where
    ``Matcher`` makes every anchor of the image positive.

    The best anchors of an object may tie anywhere on the grid (all anchors inside a large object have the same IoU), so all anchors are
    compared with all objects, a few objects at a time with running maxima. Memory: B x P x ``chunk``; time grows with B x P x G.

    Args:
        thresholds: background below the first, object from the second on, ignored in between.
        allow_low_quality: every object also makes the anchors that overlap it most positive, all equal ones. Such an anchor still goes
            to the object that *it* overlaps most, which may be another.
        low_quality_from: the least IoU of such an anchor (Detectron's RetinaNet: 0.4; FCOS, section 4.1.1).
        only_center_inside: an anchor whose center does not lie in its object, by more than a hundredth of a pixel, is ignored instead of
            positive ("In GT Box" of ATSS, table 1; that they are ignored is what sfzhang15/ATSS does).
        chunk: objects of each image that are compared at a time.
    """

    config_section = "IOU"
    compiles = True
    needs_anchors = True

    def __init__(
        self,
        *,
        thresholds: Sequence[float] = (0.4, 0.5),
        allow_low_quality: bool = True,
        low_quality_from: float = 0.0,
        only_center_inside: bool = False,
        chunk: int = 8,
    ) -> None:
        super().__init__()
        if len(thresholds) != 2 or not 0 < thresholds[0] <= thresholds[1]:
            raise ValueError(f"thresholds takes two IoUs above 0, the lower first, not {list(thresholds)}.")
        self.negative_below, self.positive_from = thresholds
        self.allow_low_quality = allow_low_quality
        self.low_quality_from = low_quality_from
        self.only_center_inside = only_center_inside
        self.chunk = chunk

    def forward(self, context: AssignContext) -> HardAssignment:
        priors = context.grid_priors
        padding = padding_mask(priors, context.valid_sizes)
        best_iou, best_gt, is_best = self._compare(context.gt, priors.boxes, priors.plus_one, padding)
        positive = best_iou >= self.positive_from
        if self.allow_low_quality:
            positive |= is_best
        ignore = ~positive & (best_iou >= self.negative_below)
        if self.only_center_inside and context.gt.boxes.shape[1]:
            wanted_by = context.gt.boxes.gather(1, best_gt[..., None].expand(-1, -1, 4))
            outside = positive & ~center_inside(priors.boxes, wanted_by)
            positive, ignore = positive & ~outside, ignore | outside
        if padding is not None:
            ignore |= padding
        return HardAssignment(torch.where(positive, best_gt, -1), ignore)

    def _compare(self, gt: GroundTruth, anchors: Tensor, plus_one: float, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Per anchor, all (B, P): its highest IoU (-1 if there is no object), the object, and whether it is some object's best anchor."""
        batch, num_gts = gt.valid.shape
        best_iou = anchors.new_full((batch, len(anchors)), -1.0)
        best_gt = torch.zeros_like(best_iou, dtype=torch.int64)
        is_best = torch.zeros_like(best_iou, dtype=torch.bool)
        for first in range(0, num_gts, self.chunk):
            boxes, valid = gt.boxes[:, first : first + self.chunk, None], gt.valid[:, first : first + self.chunk, None]
            ious = elementwise_iou(boxes, anchors, plus_one).masked_fill(~valid, -1.0)  # (B, chunk, P)
            if padding is not None:
                ious.masked_fill_(padding[:, None], -1.0)
            iou, index = ious.max(dim=1)
            better = iou > best_iou
            best_iou = torch.where(better, iou, best_iou)
            best_gt = torch.where(better, index + first, best_gt)
            highest = ious.amax(dim=2, keepdim=True)
            is_best |= ((ious == highest) & (highest > 0) & (highest >= self.low_quality_from)).any(dim=1)
        return best_iou, best_gt, is_best
