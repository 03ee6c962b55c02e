"""ATSS label assignment (Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection, CVPR 2020, section 3.1 and algorithm 1).

Two independent halves: :func:`nearest_on_grid` finds candidates (other ways of finding them are possible: a detector may compare
boxes that stand on no grid), :func:`select_by_iou_statistics` and :func:`highest_iou_wins` choose among candidates, whatever they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from detkit.geometry import Priors, boxes_to_ltrb, elementwise_iou

from .base import AssignContext, Assigner, HardAssignment
from .registry import ASSIGNER_REGISTRY
from .windows import beyond_image, cell_limits, cells_to_index, level_table, nearest_cells

__all__ = ["ATSSAssigner", "Candidates", "nearest_on_grid", "select_by_iou_statistics", "highest_iou_wins"]

#: An anchor's centre must lie further than this inside the object, in pixels (the authors' code; the paper only says "in").
MIN_INSIDE = 0.01

#: Bits of infinity in float64.
INFINITE = 0x7FF0 << 48


class Candidates(NamedTuple):
    """Priors that an object may get.

    Attributes:
        index: (B, G, M) int64, priors; no prior stands twice for the same object.
        valid: (B, G, M) bool, False for places that hold no candidate; their index is some prior.
    """

    index: Tensor
    valid: Tensor


@ASSIGNER_REGISTRY.register()
class ATSSAssigner(Assigner):
    """Each object takes those of its nearest anchors whose IoU with it stands out; the object's own statistics say where.

    Candidates are the anchors on the ``topk`` locations of each level nearest to the object's centre. Positive are those with an IoU of
    at least mean plus standard deviation over the object's candidates and with their centre inside the object. An anchor wanted by
    several objects goes to the highest IoU, then to the lowest index. Memory and time: objects x levels x topk.

    Args:
        topk: locations per level. With A anchors per location ``topk * A`` anchors per level are candidates, as in the authors' code.
    """

    @configurable
    def __init__(self, *, topk: int = 9) -> None:
        super().__init__()
        if topk < 1:
            raise ValueError(f"MODEL.ASSIGNERS.ATSS.TOPK must be at least 1, not {topk}.")
        self.topk = topk

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"topk": cfg.MODEL.ASSIGNERS.ATSS.TOPK}

    @torch.no_grad()
    def forward(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.priors
        candidates = nearest_on_grid(gt.boxes, priors, self.topk, context.valid_sizes)
        boxes = priors.boxes[candidates.index]  # (B, G, M, 4)
        gt_boxes = gt.boxes[:, :, None]
        ious = elementwise_iou(boxes, gt_boxes, priors.plus_one)
        inside = boxes_to_ltrb(gt_boxes, (boxes[..., :2] + boxes[..., 2:]) / 2).amin(-1) > MIN_INSIDE
        positive = select_by_iou_statistics(ious, candidates.valid) & inside & gt.valid[..., None]
        gt_index = highest_iou_wins(candidates.index, ious, positive, priors.num_priors)
        return HardAssignment(gt_index, beyond_image(priors, context.valid_sizes))


def nearest_on_grid(gt_boxes: Tensor, priors: Priors, k: int, valid_sizes: Tensor | None = None) -> Candidates:
    """The anchors on the ``k`` locations of each level that are nearest to the centre of each object.

    Exactly those, also at borders, on levels of fewer than ``k`` cells (all of them then) and for centres outside the image. Squared
    distances are compared in float64 to about 40 binary digits; equally near locations go by their index, the lower first.

    Sort the columns of a level by their distance from the centre along x, the rows by theirs along y. The location on the column of
    rank i and the row of rank j (from 0) has ``(i + 1) * (j + 1) - 1`` others that are at least as near, so it can be among the k
    nearest only if ``(i + 1) * (j + 1) <= k``: 23 locations for k = 9, whatever the size of the level.

    Args:
        gt_boxes: (B, G, 4) xyxy in pixels.
        priors: the anchors, A per location.
        k: locations per level.
        valid_sizes: (B, L, 2) rows and columns of each level that take part, or None for all.

    Returns:
        candidates with M = L * k * A.
    """
    grid = priors.grid
    table, limits = level_table(grid), cell_limits(grid, valid_sizes)
    centers = ((gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2)[:, :, None].double()  # (B, G, 1, 2)
    cells, exists = nearest_cells(centers / table.strides - grid.offset, limits, k)  # (B, G, L, 2, k)
    positions = (cells + grid.offset) * table.strides[..., None].double()
    squared = (positions - centers[..., None]).square().masked_fill(~exists, torch.inf)

    # one integer per pair that sorts by distance, then row, then column; its low bits name the cell relative to the nearest one
    bits = (2 * k - 2).bit_length()
    nearest = cells[..., :1] - (k - 1)
    relative = cells - nearest  # in [0, 2k - 2]
    ranks_x, ranks_y = _rank_pairs(k, gt_boxes.device)
    distance = _pick(squared[..., 0, :], ranks_x) + _pick(squared[..., 1, :], ranks_y)
    place = _pick(relative[..., 0, :], ranks_x) + _pick(relative[..., 1, :] << bits, ranks_y)
    keys = (distance.view(torch.int64) >> 2 * bits << 2 * bits) + place  # (B, G, L, pairs)
    keys = keys.topk(k, dim=-1, largest=False, sorted=False).values

    low_bits = (1 << bits) - 1
    columns = (keys & low_bits) + nearest[..., 0, :]
    rows = (keys >> bits & low_bits) + nearest[..., 1, :]
    valid = keys < INFINITE
    index = torch.where(valid, cells_to_index(columns[..., None], rows[..., None], grid)[..., 0], 0).flatten(2)
    return _all_anchors(index, valid.flatten(2), priors.anchors_per_point)


def select_by_iou_statistics(ious: Tensor, valid: Tensor) -> Tensor:
    """Which candidates have an IoU of at least mean plus (unbiased) standard deviation over the valid candidates of their object.

    Computed in float64, so that equal IoUs are not below their own mean. A single candidate has standard deviation 0.

    Args:
        ious: (B, G, M) of each candidate with its object.
        valid: (B, G, M) bool; the others count for nothing and are not selected.
    """
    ious = ious.double()
    count = valid.sum(-1, keepdim=True).clamp(min=1)
    mean = (ious * valid).sum(-1, keepdim=True) / count
    deviations = (ious - mean) * valid
    variance = deviations.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return (ious >= mean + variance.sqrt()) & valid


def highest_iou_wins(index: Tensor, ious: Tensor, positive: Tensor, num_priors: int) -> Tensor:
    """Gives every prior to the object with the highest IoU among those that want it, at equal IoU to the lowest index.

    Args:
        index, ious, positive: (B, G, M) the wanted priors, their IoU with the object (float32, >= 0), and whether the wish counts.
        num_priors: P.

    Returns:
        (B, P) int64 gt index, -1 where nobody wants the prior.
    """
    batch, num_gts, _ = index.shape
    # IoU above, complement of the gt index below: the bits of non-negative floats sort like the floats
    backwards = torch.arange(num_gts - 1, -1, -1, device=index.device)[:, None]
    bids = torch.where(positive, (ious.float().view(torch.int32).long() << 32) + backwards, -1)
    best = torch.full((batch, num_priors), -1, dtype=torch.int64, device=index.device)
    best.scatter_reduce_(1, index.flatten(1), bids.flatten(1), "amax")
    return torch.where(best < 0, -1, num_gts - 1 - (best & 0xFFFFFFFF))


@lru_cache(maxsize=16)
def _rank_pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks (column, row), from 0, of the locations that can be among the k nearest."""
    pairs = [(i, j) for i in range(k) for j in range(k) if (i + 1) * (j + 1) <= k]
    columns, rows = torch.tensor(pairs, device=device).unbind(1)
    return columns, rows


def _pick(values: Tensor, ranks: Tensor) -> Tensor:
    """``values[..., ranks]``, which is what index_select does faster."""
    return values.index_select(-1, ranks)


def _all_anchors(index: Tensor, valid: Tensor, anchors_per_point: int) -> Candidates:
    """From locations to the anchors on them: (B, G, N) to (B, G, N * A)."""
    if anchors_per_point == 1:
        return Candidates(index, valid)
    anchors = torch.arange(anchors_per_point, device=index.device)
    index = (index[..., None] * anchors_per_point + anchors).flatten(2)
    return Candidates(index, valid.repeat_interleave(anchors_per_point, dim=2))
