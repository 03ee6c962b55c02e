"""ATSS label assignment (Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection, CVPR 2020, section 3.1 and algorithm 1).

Two independent halves: :func:`nearest_on_grid` finds candidates (other ways of finding them are possible: a detector may compare
boxes that stand on no grid); :func:`select_by_iou_statistics`, :func:`center_inside` and :func:`highest_iou_wins` choose among
candidates, wherever they come from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detkit.geometry import Priors, box_centers, elementwise_iou
from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .registry import ASSIGNER_REGISTRY
from .windows import (
    cell_limits,
    cells_to_index,
    index_of_packed,
    level_table,
    nearest_cells,
    packed_with_index,
    padding_mask,
    rank_pairs,
    scatter_to_priors,
)

__all__ = [
    "ATSSAssigner",
    "Candidates",
    "nearest_on_grid",
    "center_inside",
    "select_by_iou_statistics",
    "highest_iou_wins",
]

#: An anchor's center must lie further than this inside the object, in pixels (the authors' code; the paper only says "in").
MIN_INSIDE = 0.01

#: Bits of infinity in float64.
INFINITE = 0x7FF0 << 48


class Candidates(NamedTuple):
    """Priors that an object may get.

    Attributes:
        prior_index: (M, B, G) int64, priors; no prior stands twice for the same object.
        boxes: (M, B, G, 4) their boxes, xyxy in pixels.
        valid: (M, B, G) bool, False for places that hold no candidate; index and box are some finite ones there.
    """

    prior_index: Tensor
    boxes: Tensor
    valid: Tensor


@ASSIGNER_REGISTRY.register()
class ATSSAssigner(Assigner):
    """Each object takes those of its nearest anchors whose IoU with it stands out; the object's own statistics say where.

    Candidates are the anchors on the ``topk`` locations of each level nearest to the object's center. Positive are those with an IoU of
    at least mean plus standard deviation over the object's candidates and with their center inside the object. An anchor wanted by
    several objects goes to the highest IoU, then to the lowest index. Memory and time: objects x levels x topk.

    Args:
        topk: locations per level. With A anchors per location ``topk * A`` anchors per level are candidates, as in the authors' code.
    """

    config_section = "ATSS"
    compiles = True
    needs_anchors = True

    def __init__(self, *, topk: int = 9) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"topk must be at least 1, not {topk}.")
        self.topk = topk

    def max_positives(self, num_gts: int, priors: Priors) -> int:
        return min(num_gts * self.topk * priors.grid.num_levels * priors.anchors_per_point, priors.num_priors)

    def forward(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.grid_priors
        padding = padding_mask(priors, context.valid_sizes)
        index, boxes, valid = self.candidates(context, padding)
        ious = elementwise_iou(boxes, gt.boxes, priors.plus_one)
        positive = select_by_iou_statistics(ious, valid) & center_inside(boxes, gt.boxes) & gt.valid
        return HardAssignment(highest_iou_wins(index, ious, positive, priors.num_priors), padding)

    def candidates(self, context: AssignContext, padding: Tensor | None) -> Candidates:
        """What each object may get; ``padding`` (B, P) bool are priors that take no part, or None."""
        return nearest_on_grid(context.gt.boxes, context.grid_priors, self.topk, context.valid_sizes)


def nearest_on_grid(gt_boxes: Tensor, priors: Priors, k: int, valid_sizes: Tensor | None = None) -> Candidates:
    """The anchors on the ``k`` locations of each level that are nearest to the center of each object.

    Exactly those, also at borders, on levels of fewer than ``k`` cells (all of them then) and for centers outside the image. Squared
    distances are compared in float64 to about 40 binary digits; equally near locations go by their index, the lower first.

    Only the cells of :func:`detkit.assigners.windows.rank_pairs` are visited, 23 for k = 9, whatever the size of the level.

    Args:
        gt_boxes: (B, G, 4) xyxy in pixels.
        priors: the anchors, A per location.
        k: locations per level.
        valid_sizes: (B, L, 2) rows and columns of each level that take part, or None for all.

    Returns:
        candidates with M = L * k * A.
    """
    grid = priors.grid
    strides = level_table(grid).strides.double()
    centers = box_centers(gt_boxes).double().movedim(-1, 0)[:, None]  # (2, 1, B, G): x, y
    cells, exists = nearest_cells(centers / strides - grid.offset, cell_limits(grid, valid_sizes), k)  # (k, 2, L, B, G)
    squared = ((cells + grid.offset) * strides - centers).square_().masked_fill_(~exists, torch.inf)

    # one integer per pair that sorts by distance, then row, then column; its low bits name the cell relative to the nearest one
    bits = (2 * k - 2).bit_length()
    bases = cells[0] - (k - 1)
    relative = (cells - bases).long()  # in [0, 2k - 2]
    ranks_x, ranks_y = rank_pairs(k, gt_boxes.device)
    distance = squared[:, 0].index_select(0, ranks_x) + squared[:, 1].index_select(0, ranks_y)  # (pairs, L, B, G)
    place = relative[:, 0].index_select(0, ranks_x) + (relative[:, 1] << bits).index_select(0, ranks_y)
    keys = (distance.view(torch.int64) & -(1 << 2 * bits)) + place
    keys = keys.topk(k, dim=0, largest=False, sorted=False).values  # (k, L, B, G)

    valid = keys < INFINITE
    low_bits, (base_x, base_y) = (1 << bits) - 1, bases.long()
    columns, rows = (keys & low_bits) + base_x, (keys >> bits & low_bits) + base_y
    index = torch.where(valid, cells_to_index(columns, rows, grid), 0)
    points = (torch.stack([columns, rows]) + grid.offset) * level_table(grid).strides  # (2, k, L, B, G)
    return _anchors_on(index, points, valid, priors)


def center_inside(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """Whether the centers of boxes (..., 4) lie inside gt boxes (..., 4), by more than :data:`MIN_INSIDE` pixels."""
    centers = box_centers(boxes)
    left_top, right_bottom = centers - gt_boxes[..., :2], gt_boxes[..., 2:] - centers
    return torch.minimum(left_top, right_bottom).amin(-1) > MIN_INSIDE


def select_by_iou_statistics(ious: Tensor, valid: Tensor) -> Tensor:
    """Which candidates have an IoU of at least mean plus (unbiased) standard deviation over the valid candidates of their object.

    Computed in float64, so that equal IoUs are not below their own mean. A single candidate has standard deviation 0.

    Args:
        ious: (M, B, G) of each candidate with its object.
        valid: (M, B, G) bool; the others count for nothing and are not selected.
    """
    ious = ious.double()
    count = valid.sum(0).clamp(min=1)
    mean = (ious * valid).sum(0) / count
    variance = ((ious - mean) * valid).square_().sum(0) / (count - 1).clamp(min=1)
    return (ious >= mean + variance.sqrt()) & valid


def highest_iou_wins(index: Tensor, ious: Tensor, positive: Tensor, num_priors: int) -> Tensor:
    """Gives every prior to the object with the highest IoU among those whose candidate it is, at equal IoU to the lowest index.

    Args:
        index, ious, positive: (M, B, G) the candidates, their IoU with the object (float32, >= 0), and whether the candidate is positive.
        num_priors: P.

    Returns:
        (B, P) int64 gt index, -1 for unassigned priors.
    """
    num_gts = index.shape[-1]
    unassigned = (-1 << 32) + num_gts
    backward = torch.arange(num_gts - 1, -1, -1, device=index.device)
    bids = torch.where(positive, packed_with_index(ious, backward), unassigned)
    best = scatter_to_priors(index, bids, unassigned, num_priors, "amax")
    return num_gts - 1 - index_of_packed(best)


def _anchors_on(index: Tensor, points: Tensor, valid: Tensor, priors: Priors) -> Candidates:
    """From the locations of each level, (k, L, B, G), to the anchors on them: M = k * L * A."""
    corners = torch.stack(priors.cell_anchors).to(points).permute(2, 1, 0).unflatten(0, (2, 2))  # (2, 2, A, L): corner, axis
    boxes = (points[:, :, None] + corners[:, :, None, :, :, None, None]).flatten(0, 1)  # (4, k, A, L, B, G)
    num_anchors = priors.anchors_per_point
    anchors = torch.arange(num_anchors, device=index.device)[:, None, None, None]
    index = index[:, None] * num_anchors + anchors  # (k, A, L, B, G)
    valid = valid[:, None].expand_as(index)
    return Candidates(index.flatten(0, 2), boxes.flatten(1, 3).movedim(0, -1), valid.flatten(0, 2))
