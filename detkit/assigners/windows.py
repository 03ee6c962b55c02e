"""Index arithmetic on the regular grids of a pyramid: which cells lie near a position, without looking at all of them.

Everything here treats all levels and both axes at once. Tensors have the shape (..., 2, L, B, G): what is asked of each object first
(cells of a window, ranks), then the axis, x (columns) before y (rows), the level, the image, and the object last, so that broadcasting
runs along long rows. The symbols are defined in :mod:`detkit.structures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from detkit.geometry import Grid, Priors
from detkit.host import send

__all__ = [
    "LevelTable",
    "level_table",
    "cell_limits",
    "cells_to_index",
    "nearest_cells",
    "rank_pairs",
    "scatter_to_priors",
    "index_of_packed",
    "packed_with_index",
    "padding_mask",
]


@dataclass(frozen=True)
class LevelTable:
    """What index arithmetic needs of each level, as tensors on the grid's device.

    Attributes:
        sizes: (2, L, 1, 1) int64, cells along x and y.
        strides: (L, 1, 1) float32, pixels per cell.
        starts: (L, 1, 1) int64, index of the level's first location.
    """

    sizes: Tensor
    strides: Tensor
    starts: Tensor


def _table(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of constants; a compiler knows them, a GPU gets them without being waited for."""
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    return send(torch.tensor(values, dtype=dtype), device)


@lru_cache(maxsize=64)
def level_table(grid: Grid) -> LevelTable:
    """The table of a grid. Kept for the grids seen last, so that a training step copies nothing to the device."""
    heights, widths = zip(*grid.sizes, strict=True)
    return LevelTable(
        sizes=_table([widths, heights], grid.device)[..., None, None],
        strides=_table(grid.strides, grid.device, torch.float32)[:, None, None],
        starts=_table(grid.level_starts[:-1], grid.device)[:, None, None],
    )


def cell_limits(grid: Grid, valid_sizes: Tensor | None) -> Tensor:
    """Cells along x and y that take part, per level and image: (2, L, B, 1) int64, or (2, L, 1, 1) where it is the whole grid.

    Args:
        grid: the locations.
        valid_sizes: (B, L, 2) rows and columns of each image's own area, or None.
    """
    sizes = level_table(grid).sizes
    if valid_sizes is None:
        return sizes
    return torch.minimum(valid_sizes.flip(-1).permute(2, 1, 0)[..., None], sizes)


def cells_to_index(columns: Tensor, rows: Tensor, grid: Grid) -> Tensor:
    """Flat location index, (..., L, B, G) int64, of cells given by their column and row (broadcastable)."""
    table = level_table(grid)
    return rows * table.sizes[0] + table.starts + columns


def nearest_cells(positions: Tensor, limits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` cells of an axis nearest to a position, nearest first; of two equally near ones the lower first.

    Nothing is sorted: the n nearest cells are a window of n that is centered on the position and pushed inside the axis. The cell of
    rank n is the one by which the window of n + 1 exceeds the window of n.

    Args:
        positions: (...) float64, positions in cells: cell ``i`` lies at ``i``.
        limits: (...) int64, broadcastable: cells along the axis, [0, limit).
        count: how many.

    Returns:
        (count, ...) cells, as whole numbers in float64, and the bool mask of those that exist, ``count`` being more than some axes have.
    """
    ranks = torch.arange(count + 1, dtype=positions.dtype, device=positions.device).view(-1, *[1] * positions.dim())
    starts = (positions - ranks / 2).ceil_()  # of the windows of 0, 1, ... count cells
    starts = torch.minimum(starts, limits - ranks).clamp_(min=0)
    grows_left = starts[1:] < starts[:-1]
    return torch.where(grows_left, starts[1:], starts[1:] + ranks[:-1]), ranks[:-1] < limits


@lru_cache(maxsize=16)
def rank_pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks (column, row), from 0, of the cells that can be among the ``k`` nearest to a position, (N,) each.

    Sort the columns of a level by their distance from the position along x, the rows by theirs along y. The cell on the column of rank i
    and the row of rank j has ``(i + 1) * (j + 1) - 1`` others that are at least as near, for any distance that grows with both parts. So it
    can be among the k nearest only if ``(i + 1) * (j + 1) <= k``.
    """
    pairs = [(i, j) for i in range(k) for j in range(k) if (i + 1) * (j + 1) <= k]
    columns, rows = _table(pairs, device).unbind(1)
    return columns, rows


def scatter_to_priors(index: Tensor, values: Tensor, start: int, num_priors: int, reduce: str) -> Tensor:
    """What every prior gets of the values sent to it: (B, P), ``start`` where nothing arrives or changes it.

    Args:
        index: (..., B, G) int64, the prior of its image that a value is for.
        values: (..., B, G) integers.
        start: value of every prior beforehand.
        num_priors: P.
        reduce: ``"amin"`` or ``"amax"``.
    """
    index, values = index.movedim(-2, 0).flatten(1), values.movedim(-2, 0).flatten(1)
    result = values.new_full((len(values), num_priors), start)
    return result.scatter_reduce_(1, index, values, reduce)


def packed_with_index(values: Tensor, index: Tensor) -> Tensor:
    """Values (...) float32, not negative, and indices (...) in [0, 2 ** 32) as int64 that sort by value, then by index.

    The bits of non-negative floats sort like the floats. :func:`index_of_packed` gives the index back.
    """
    return (values.view(torch.int32).long() << 32) + index


def index_of_packed(packed: Tensor) -> Tensor:
    """The index (...) of what :func:`packed_with_index` gives."""
    return packed & 0xFFFFFFFF


def padding_mask(priors: Priors, valid_sizes: Tensor | None) -> Tensor | None:
    """(B, P) bool: priors in cells beyond an image's own area; None where all cells of the batch take part."""
    if valid_sizes is None:
        return None
    columns, rows = cell_limits(priors.grid, valid_sizes)  # (L, B, 1)
    per_level = []
    for level, (height, width) in enumerate(priors.grid.sizes):
        right = torch.arange(width, device=columns.device) >= columns[level]
        below = torch.arange(height, device=rows.device) >= rows[level]
        per_level.append((below[:, :, None] | right[:, None, :]).flatten(1))
    return torch.cat(per_level, dim=1).repeat_interleave(priors.anchors_per_point, dim=1)
