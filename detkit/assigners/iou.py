"""Label assignment by fixed IoU thresholds (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4; Ren et al., Faster
R-CNN, NIPS 2015, section 3.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detkit.host import on_host, send
from detkit.structures import HardAssignment

from .atss import center_inside
from .base import AssignContext, Assigner
from .overlaps import best_overlaps
from .registry import ASSIGNER_REGISTRY
from .windows import padding_mask

__all__ = ["IoUAssigner"]


@ASSIGNER_REGISTRY.register()
class IoUAssigner(Assigner):
    """Each anchor goes to the object that it overlaps most (the lowest index at equal IoU), if it overlaps it enough.

    The labels are those of Detectron2's ``Matcher``, with one difference: an object that overlaps no anchor at all gets none, where
    ``Matcher`` makes every anchor of the image positive.

    Anchors and objects are compared in windows around the objects, on the host (:mod:`detkit.assigners.overlaps`): time and memory grow
    with the anchors that overlap an object noticeably, not with all anchors times all objects.

    Args:
        thresholds: background below the first, object from the second on, ignored in between.
        allow_low_quality: every object also makes the anchors that overlap it most positive, all equal ones. Such an anchor still goes
            to the object that *it* overlaps most, which may be another.
        low_quality_from: the least IoU of such an anchor (Detectron's RetinaNet: 0.4; FCOS, section 4.1.1).
        only_center_inside: an anchor whose center does not lie in its object, by more than a hundredth of a pixel, is ignored instead of
            positive ("In GT Box" of ATSS, table 1; that they are ignored is what sfzhang15/ATSS does).
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
    ) -> None:
        super().__init__()
        if len(thresholds) != 2 or not 0 < thresholds[0] <= thresholds[1]:
            raise ValueError(f"thresholds takes two IoUs above 0, the lower first, not {list(thresholds)}.")
        self.negative_below, self.positive_from = thresholds
        self.allow_low_quality = allow_low_quality
        self.low_quality_from = low_quality_from
        self.only_center_inside = only_center_inside

    def forward(self, context: AssignContext) -> HardAssignment:
        return context.ahead if isinstance(context.ahead, HardAssignment) else self.ahead(context)

    def ahead(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.grid_priors
        found = best_overlaps(
            gt,
            priors,
            self._cells(context),
            least_iou=self.negative_below,
            best_of_objects=self.allow_low_quality,
            best_from=self.low_quality_from,
        )
        positive = (found.iou >= np.float32(self.positive_from)) | found.is_best
        ignore = send(~positive & (found.iou >= np.float32(self.negative_below)), gt.boxes.device)
        gt_index = send(np.where(positive, found.gt_index, -1), gt.boxes.device)
        if self.only_center_inside and gt.boxes.shape[1]:
            wanted_by = gt.boxes.gather(1, gt_index.clamp(min=0)[..., None].expand(-1, -1, 4))
            outside = (gt_index >= 0) & ~center_inside(priors.boxes, wanted_by)
            gt_index, ignore = gt_index.masked_fill(outside, -1), ignore | outside
        padding = padding_mask(priors, context.valid_sizes)
        return HardAssignment(gt_index, ignore if padding is None else ignore | padding)

    @staticmethod
    def _cells(context: AssignContext) -> np.ndarray:
        """(B, L, 2) rows and columns of each level that take part."""
        if context.valid_sizes is not None:
            return on_host(context.valid_sizes)
        return np.broadcast_to(np.asarray(context.grid_priors.grid.sizes), (len(context.gt.boxes), context.grid_priors.grid.num_levels, 2))
