"""FCOS label assignment (Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, sections 3.1 and 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.geometry import Grid, box_areas
from detkit.structures import HardAssignment

from .base import AssignContext, Assigner
from .registry import ASSIGNER_REGISTRY
from .windows import cell_limits, cells_to_index, level_table, padding_mask, scatter_to_priors

__all__ = ["FCOSAssigner"]


@ASSIGNER_REGISTRY.register()
class FCOSAssigner(Assigner):
    """A location is responsible for the smallest object that contains it, on the level whose range holds its largest distance to a side.

    Only the cells that can qualify are visited. A location x with ``x1 - x <= hi`` and ``x - x0 <= hi`` lies in an interval of length
    at most ``hi``, so a level with upper bound ``hi`` needs a window of ``hi / stride + 1`` cells per axis, and center sampling one of
    ``2 * radius + 1``. What depends on x alone or y alone is computed per axis. Memory and time: objects x levels x window cells.

    Args:
        sizes_of_interest: inner bounds in pixels between the levels' ranges of ``max(l, t, r, b)``, ascending, one less than there are
            levels (64, 128, 256, 512 for P3 to P7, section 3.2). The first range starts below zero, the last has no end.
        center_radius: a location must also lie within this many strides of the object's center, per axis (center sampling, the
            authors' improvement after publication: 1.5); 0: anywhere in the object.
        inclusive_ranges: both ends belong to a range (tianzhi0549/FCOS, AdelaiDet, mmdetection); False: neither does (Detectron2).
    """

    config_section = "FCOS"
    compiles = True
    range_starts: Tensor
    range_ends: Tensor

    def __init__(
        self,
        *,
        sizes_of_interest: Sequence[float] = (64, 128, 256, 512),
        center_radius: float = 1.5,
        inclusive_ranges: bool = True,
    ) -> None:
        super().__init__()
        bounds = [-1.0, *(float(size) for size in sizes_of_interest), math.inf]
        if bounds != sorted(bounds):
            raise ValueError(f"sizes_of_interest must be positive and ascending, not {list(sizes_of_interest)}.")
        if center_radius < 0:
            raise ValueError(f"center_radius is a number of strides, 0 for no center sampling, not {center_radius}.")
        self.center_radius = float(center_radius)
        self.inclusive_ranges = inclusive_ranges
        self.upper_bounds = bounds[1:]
        self.register_buffer("range_starts", torch.tensor(bounds[:-1]), persistent=False)  # (L,)
        self.register_buffer("range_ends", torch.tensor(bounds[1:]), persistent=False)  # (L,)

    def forward(self, context: AssignContext) -> HardAssignment:
        gt, priors = context.gt, context.grid_priors
        grid = priors.grid
        ranks, order = _ranks_by_area(box_areas(gt.boxes, priors.plus_one), gt.valid)
        shape = context.ahead if isinstance(context.ahead, tuple) else self.ahead(context)
        index, positive = self._windows(gt.boxes, grid, context.valid_sizes, shape)
        unassigned = ranks.shape[1]
        claims = torch.where(positive & gt.valid, ranks, unassigned)
        winners = scatter_to_priors(index, claims, unassigned, grid.num_points, "amin")
        order = torch.cat([order, order.new_full((len(order), 1), -1)], dim=1)
        gt_index = order.gather(1, winners.long()).repeat_interleave(priors.anchors_per_point, dim=1)
        return HardAssignment(gt_index, padding_mask(priors, context.valid_sizes))

    def _windows(self, boxes: Tensor, grid: Grid, valid_sizes: Tensor | None, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Locations that may qualify for each object, and whether they do; both (rows, columns, L, B, G)."""
        num_columns, num_rows = shape
        cells, far = self._axis_windows(boxes, grid, valid_sizes, max(shape))
        index = cells_to_index(cells[:num_columns, 0], cells[:num_rows, None, 1], grid)
        farthest = torch.maximum(far[:num_columns, 0], far[:num_rows, None, 1])  # max(l, t, r, b), nan outside
        starts, ends = self.range_starts[:, None, None], self.range_ends[:, None, None]
        if self.inclusive_ranges:
            return index, (farthest >= starts) & (farthest <= ends)
        return index, (farthest > starts) & (farthest < ends)

    def _axis_windows(self, boxes: Tensor, grid: Grid, valid_sizes: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """Per axis the cells of the window, and their larger distance to the two sides in pixels, nan where a cell is not allowed.

        Both (n, 2, L, B, G).
        """
        table, limits = level_table(grid), cell_limits(grid, valid_sizes)
        low, high = boxes.permute(2, 0, 1).view(2, 2, 1, *boxes.shape[:2])  # sides of the objects, (2, 1, B, G) each
        first, last = low, high  # the open interval in which locations are allowed
        if self.center_radius:
            center, reach = (low + high) / 2, self.center_radius * table.strides
            first, last = torch.maximum(low, center - reach), torch.minimum(high, center + reach)
        window_starts = torch.maximum(first, high - self.range_ends[:, None, None]).double() / table.strides - grid.offset
        window_starts = torch.minimum(window_starts.floor().clamp(min=0), table.sizes).long()
        steps = torch.arange(length, device=boxes.device)
        cells = window_starts + steps.view(-1, 1, 1, 1, 1)
        positions = (cells + grid.offset) * table.strides
        inside = (positions > first) & (positions < last) & (cells < limits)
        far = torch.maximum(positions - low, high - positions)
        return torch.minimum(cells, table.sizes - 1), torch.where(inside, far, math.nan)

    def ahead(self, context: AssignContext) -> tuple[int, int]:
        """Columns and rows of a window that is large enough on every level."""
        grid = context.grid_priors.grid
        self._check_levels(grid)
        columns: float = 1
        rows: float = 1
        for (height, width), stride, range_end in zip(grid.sizes, grid.strides, self.upper_bounds, strict=True):
            extent = range_end / stride
            if self.center_radius:
                extent = min(extent, 2 * self.center_radius)
            cells = math.ceil(extent) + 1 if extent < math.inf else math.inf
            columns, rows = max(columns, min(width, cells)), max(rows, min(height, cells))
        return int(columns), int(rows)

    def _check_levels(self, grid: Grid) -> None:
        if grid.num_levels != len(self.upper_bounds):
            sizes = self.upper_bounds[:-1]
            raise ValueError(
                f"MODEL.ASSIGNERS.FCOS.SIZES_OF_INTEREST {sizes} makes {len(sizes) + 1} ranges, but the detector has "
                f"{grid.num_levels} levels (IN_FEATURES). Give one bound less than there are levels."
            )


def _ranks_by_area(areas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of every object within its image, smallest area first, equal areas by index: (B, G) int32; and the objects in that order."""
    order = areas.masked_fill(~valid, math.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], dtype=torch.int32, device=order.device).expand_as(order)
    return torch.empty_like(places).scatter_(1, order, places), order
