"""One location per object, near its middle, on the pyramid level that fits its size (Yang et al., RepPoints, ICCV 2019, section 3.3;
first stage of LSNet, section 4.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detkit.geometry import Grid, Priors, box_centers, box_sizes
from detkit.structures import GroundTruth, HardAssignment

from .base import AssignContext, Assigner
from .registry import ASSIGNER_REGISTRY
from .windows import (
    cell_limits,
    index_of_packed,
    level_table,
    nearest_cells,
    packed_with_index,
    padding_mask,
    rank_pairs,
    scatter_to_priors,
)

__all__ = ["CentroidAssigner"]

#: sides of objects are at least this, in pixels
MIN_SIDE = 1e-6


@ASSIGNER_REGISTRY.register()
class CentroidAssigner(Assigner):
    """Each object takes the locations nearest to its middle on one level; a location wanted by several goes to the nearest object.

    Distances are measured along x in widths and along y in heights of the object. The level is that of stride ``2 ** l``, where l is the
    whole part of ``log2(sqrt(w * h) / scale)``, or the nearest level that exists. Of equally near objects the lowest index wins; of
    equally near locations the lower one. Memory and time: objects x locations taken.

    Args:
        scale: side of an object of level 0 in pixels (the official code of LSNet: 4).
        num_points: locations per object (LSNet: 1).
        middle: ``"center"`` of the box, or ``"centroid"`` of the quadrilateral of its four extreme points (``GroundTruth.landmarks``).
    """

    config_section = "CENTROID"

    def __init__(self, *, scale: float = 4.0, num_points: int = 1, middle: Literal["center", "centroid"] = "center") -> None:
        super().__init__()
        if middle not in ("center", "centroid"):
            raise ValueError(f"middle must be 'center' or 'centroid', not '{middle}'.")
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, not {num_points}.")
        self.scale = scale
        self.num_points = num_points
        self.middle = middle

    def max_positives(self, num_gts: int, priors: Priors) -> int:
        return min(num_gts * self.num_points * priors.anchors_per_point, priors.num_priors)

    def forward(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.grid_priors
        index, squared = self._nearest(gt, priors.grid, context.valid_sizes)  # (k, B, G) each
        unassigned = torch.iinfo(torch.int64).max
        bids = packed_with_index(squared, torch.arange(gt.valid.shape[1], device=index.device))
        bids = torch.where(squared.isfinite() & gt.valid, bids, unassigned)
        best = scatter_to_priors(index, bids, unassigned, priors.grid.num_points, "amin")
        gt_index = torch.where(best == unassigned, -1, index_of_packed(best)).repeat_interleave(priors.anchors_per_point, dim=1)
        return HardAssignment(gt_index, padding_mask(priors, context.valid_sizes))

    def _nearest(self, gt: GroundTruth, grid: Grid, valid_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The locations of each object, and their squared distances in its sizes, infinite for places that hold none: (k, B, G) each."""
        sizes = box_sizes(gt.boxes).clamp(min=MIN_SIDE)
        level = self._levels(sizes, grid)  # (B, G)
        table, limits = level_table(grid), cell_limits(grid, valid_sizes)
        limits = limits.expand(-1, -1, *level.shape).gather(1, level.expand(2, 1, -1, -1)).squeeze(1)  # (2, B, G)
        stride = table.strides[level, 0, 0].double()
        middle = self._middles(gt).double().movedim(-1, 0)  # (2, B, G): x, y
        cells, exists = nearest_cells(middle / stride - grid.offset, limits, self.num_points)  # (k, 2, B, G)
        distances = ((cells + grid.offset) * stride - middle) / sizes.movedim(-1, 0)
        squared = distances.square().masked_fill(~exists, torch.inf)
        columns, rows = rank_pairs(self.num_points, cells.device)
        squared, order = (squared[columns, 0] + squared[rows, 1]).sort(dim=0, stable=True)  # (pairs, B, G)
        column, row = (
            cells[ranks, axis].gather(0, order[: self.num_points]).long().clamp(min=0) for axis, ranks in enumerate((columns, rows))
        )
        width, start = table.sizes[0, level, 0, 0], table.starts[level, 0, 0]
        return row * width + column + start, squared[: self.num_points].float()

    def _levels(self, sizes: Tensor, grid: Grid) -> Tensor:
        """Index of the level of objects with these widths and heights (B, G, 2)."""
        wanted = ((sizes / self.scale).log2().sum(-1) / 2).trunc()
        return (wanted[..., None] - level_table(grid).strides[:, 0, 0].log2()).abs().argmin(-1)

    def _middles(self, gt: GroundTruth) -> Tensor:
        """(B, G, 2) x, y in pixels."""
        if self.middle == "center":
            return box_centers(gt.boxes)
        if gt.landmarks is None or gt.landmarks.shape[2] != 4:
            raise ValueError("MODEL.ASSIGNERS.CENTROID.MIDDLE 'centroid' needs four extreme points per object: take 'center'.")
        return _centroids(gt.landmarks[..., :2], otherwise=box_centers(gt.boxes))


def _centroids(corners: Tensor, otherwise: Tensor) -> Tensor:
    """Centroids (..., 2) of quadrilaterals (..., 4, 2); ``otherwise`` (..., 2) where all corners lie on a line.

    Leaving out one corner at a time makes four triangles. The centroid lies on the line between the centroids of the two that a diagonal
    divides the quadrilateral into, for both diagonals.
    """
    first, second, third, fourth = ((corners.sum(-2, keepdim=True) - corners) / 3).unbind(-2)
    across, along, gap = third - first, fourth - second, second - first
    area = _cross(across, along)
    share = _cross(gap, along) / torch.where(area == 0, 1.0, area)
    return torch.where((area == 0)[..., None], otherwise, first + share[..., None] * across)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
