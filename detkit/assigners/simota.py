"""SimOTA (Ge et al., YOLOX: Exceeding YOLO Series in 2021, section 2.1, "SimOTA")."""

from __future__ import annotations

from torch import Tensor

from detkit.geometry import elementwise_iou
from detkit.losses import negative_log_rest
from detkit.structures import HardAssignment, Predictions

from .base import AssignContext, Assigner
from .candidates import center_distance, hard_labels, points_inside
from .pair_costs import dynamic_counts, iou_cost
from .registry import ASSIGNER_REGISTRY
from .segments import best_of_each, ranks_in_groups
from .soft import Pairs, PairValues

__all__ = ["SimOTAAssigner"]

#: cost of a location that lies inside the object but not in its center region (YOLOX)
OFF_CENTER = 1e5


@ASSIGNER_REGISTRY.register()
class SimOTAAssigner(Assigner):
    """Each object takes its k cheapest locations; k is the sum of its best IoUs.

    A location wanted by several objects goes to the cheapest, then to the lowest index. Candidates lie inside the object: YOLOX also
    takes those outside that are near its center, which a regression to non-negative distances cannot use. An object without a
    location inside gets none.

    Args:
        topk: IoUs that are summed (10).
        iou_weight: of ``-ln(IoU)`` beside the binary cross entropy of the classes (3).
        center_radius: strides around the center, per axis, within which locations are preferred (2.5).
    """

    config_section = "SIMOTA"
    needs_predictions = True

    def __init__(self, *, topk: int = 10, iou_weight: float = 3.0, center_radius: float = 2.5) -> None:
        super().__init__()
        self.topk, self.iou_weight, self.center_radius = topk, iou_weight, center_radius

    def forward(self, context: AssignContext) -> HardAssignment:
        gt, predictions = context.gt, context.given_predictions
        pairs, num_gts = points_inside(context), gt.valid.numel()
        values = pairs.look_up(predictions, gt)
        iou = elementwise_iou(values.boxes, values.gt_boxes)
        cost = _class_cost(values, pairs, predictions) + self.iou_weight * iou_cost(iou)
        off_center = center_distance(pairs, gt, context.grid_priors).abs().amax(-1) >= self.center_radius
        cost = cost + OFF_CENTER * off_center
        counts = dynamic_counts(iou, ranks_in_groups(-iou, pairs.gt_index, num_gts), pairs.gt_index, num_gts, self.topk)
        chosen = ranks_in_groups(cost, pairs.gt_index, num_gts) < counts[pairs.gt_index]
        return hard_labels(pairs, context, best_of_each(-cost, pairs.prior_index, among=chosen))


def _class_cost(values: PairValues, pairs: Pairs, predictions: Predictions) -> Tensor:
    """(M,) binary cross entropy of all classes, the object's as positive, on the root of the score (YOLOX)."""
    scores = predictions.logits.sigmoid()
    if predictions.quality is not None:
        scores = scores * predictions.quality.sigmoid()[..., None]
    as_background = negative_log_rest(scores.sqrt_()).sum(-1)  # (B, P)
    own_class = values.positive_nll / 2 - negative_log_rest(values.score.sqrt())
    return as_background.flatten()[pairs.prior_index] + own_class
