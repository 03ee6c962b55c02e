"""Index arithmetic on the regular grids of a pyramid: which cells lie near a position, without looking at all of them.

Everything here treats all levels at once and both axes alike. The last dimension of size 2 is the axis, x (columns) before y (rows),
as in box corners. ``L`` counts levels; the other shape letters stand in :mod:`detkit.assigners.base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from detkit.geometry import Grid, Priors

__all__ = ["LevelTable", "level_table", "cell_limits", "cells_to_index", "nearest_cells", "beyond_image"]


@dataclass(frozen=True)
class LevelTable:
    """What index arithmetic needs of each level, as tensors on the grid's device.

    Attributes:
        sizes: (L, 2) int64, cells along x and y.
        strides: (L, 1) float32, pixels per cell.
        starts: (L,) int64, index of the level's first location.
    """

    sizes: Tensor
    strides: Tensor
    starts: Tensor


@lru_cache(maxsize=64)
def level_table(grid: Grid) -> LevelTable:
    """The table of a grid. Kept for the grids seen last, so that a training step copies nothing to the device."""
    return LevelTable(
        sizes=torch.tensor([(width, height) for height, width in grid.sizes], device=grid.device),
        strides=torch.tensor(grid.strides, dtype=torch.float32, device=grid.device)[:, None],
        starts=torch.tensor(grid.level_starts[:-1], device=grid.device),
    )


def cell_limits(grid: Grid, valid_sizes: Tensor | None) -> Tensor:
    """Cells along x and y that take part, per image and level: (B, 1, L, 2) int64, or (1, 1, L, 2) where it is the whole grid.

    Args:
        grid: the locations.
        valid_sizes: (B, L, 2) rows and columns of each image's own area, or None.
    """
    sizes = level_table(grid).sizes
    if valid_sizes is None:
        return sizes[None, None]
    return torch.minimum(valid_sizes.flip(-1).to(sizes), sizes)[:, None]


def cells_to_index(cells_x: Tensor, cells_y: Tensor, grid: Grid) -> Tensor:
    """Flat location index of cells given by column and row. The dimension of the levels is the fourth from the end, (..., L, n, m)."""
    table = level_table(grid)
    widths, starts = table.sizes[:, :1, None], table.starts[:, None, None]
    return cells_y * widths + starts + cells_x


def nearest_cells(positions: Tensor, limits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` cells of an axis nearest to a position, nearest first; of two equally near ones the lower first.

    Nothing is sorted. The nearest cell is a rounding; the next ones alternate between its two sides until one side is exhausted, and
    go on along the other.

    Args:
        positions: (...) float64, positions in cells: cell ``i`` lies at ``i``.
        limits: (...) int64, broadcastable: cells along the axis, [0, limit).
        count: how many.

    Returns:
        (..., count) int64 cells and the bool mask of those that exist, ``count`` being more than some axes have.
    """
    limits = limits.expand(positions.shape)
    last = (limits - 1).clamp(min=0)
    nearest = torch.minimum((positions - 0.5).ceil().clamp(min=0), last).long()
    leftwards = nearest >= positions  # the second nearest lies on the left; at a tie both do, the lower is the left
    near_side = torch.where(leftwards, nearest, last - nearest)[..., None]  # cells on the side of the second nearest
    far_side = last[..., None] - near_side
    rank = torch.arange(count, device=positions.device)
    alternating = torch.where(rank % 2 == 1, (rank + 1) // 2, -(rank // 2))
    step = torch.where(rank > 2 * far_side, rank - far_side, alternating)
    step = torch.where(rank > 2 * near_side, near_side - rank, step)
    step = torch.where(leftwards[..., None], -step, step)
    return nearest[..., None] + step, rank < limits[..., None]


def beyond_image(priors: Priors, valid_sizes: Tensor | None) -> Tensor | None:
    """(B, P) bool: priors in cells beyond an image's own area; None where all cells of the batch take part."""
    if valid_sizes is None:
        return None
    limits = cell_limits(priors.grid, valid_sizes)[:, 0]
    per_level = []
    for level, (height, width) in enumerate(priors.grid.sizes):
        columns = torch.arange(width, device=limits.device) >= limits[:, level, :1]
        rows = torch.arange(height, device=limits.device) >= limits[:, level, 1:]
        per_level.append((rows[:, :, None] | columns[:, None, :]).flatten(1))
    return torch.cat(per_level, dim=1).repeat_interleave(priors.anchors_per_point, dim=1)
