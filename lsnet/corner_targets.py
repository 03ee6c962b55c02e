"""What corner maps should show: Gaussians around the corners of boxes, and where objects of each class lie (Chen et al., RepPoints v2,
NeurIPS 2020, section 3.2; Law and Deng, CornerNet, ECCV 2018, section 3.2).

Every object is compared with the locations around it alone, which are listed on the host and sent: time and memory grow with these.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from detkit.assigners import AssignContext, Pairs
from detkit.assigners.candidates import points_inside
from detkit.assigners.windows import cell_limits, level_table, nearest_cells, scatter_to_priors
from detkit.geometry import Grid, Priors, box_areas, box_sizes
from detkit.host import on_host
from detkit.structures import GroundTruth

__all__ = ["CornerTargets", "class_weights", "corner_targets", "gaussian_radius"]

#: least IoU of a box whose corners lie within the radius of an object's corners
MIN_IOU = 0.7

Lengths = TypeVar("Lengths", Tensor, np.ndarray)


class CornerTargets(NamedTuple):
    """One kind of corner on all levels; P counts locations.

    Attributes:
        heat: (B, P) in [0, 1], 1 at the location of each level that is nearest to a corner.
        offsets: (B, P, 2) x, y from such a location to its corner in cells; else 0.
        positive: (B, P) bool, such locations.
    """

    heat: Tensor
    offsets: Tensor
    positive: Tensor


def corner_targets(corners: Tensor, gt: GroundTruth, grid: Grid, valid_sizes: Tensor | None) -> CornerTargets:
    """Targets of the corners (B, G, 2) of objects, on every level of a grid.

    Where several corners have the same nearest location, the last object's counts (official code).

    Args:
        corners: x, y in pixels, known on the host (:func:`detkit.host.on_host`), as the objects are.
        gt: the objects.
        grid: the locations.
        valid_sizes: (B, L, 2) rows and columns of each image's own area, or None for all.
    """
    table = level_table(grid)
    wanted = corners.movedim(-1, 0)[:, None].double() / table.strides - grid.offset  # (2, L, B, G)
    cells = nearest_cells(wanted, cell_limits(grid, valid_sizes), 1)[0][0].clamp(min=0)
    index = (cells[1].long() * table.sizes[0] + table.starts + cells[0].long()).clamp(max=grid.num_points - 1)  # (L, B, G)
    last = torch.where(gt.valid, torch.arange(gt.valid.shape[1], device=index.device), -1)
    owner = scatter_to_priors(index, last.expand_as(index), -1, grid.num_points, "amax")  # (B, P)
    positive = owner >= 0
    images = torch.arange(len(corners), device=corners.device)[:, None]
    offsets = (corners[images, owner.clamp(min=0)] - grid.points) / grid.point_strides[:, None]
    heat = torch.where(positive, 1.0, _heat(corners, gt, grid))
    return CornerTargets(heat, offsets * positive[..., None], positive)


def _heat(corners: Tensor, gt: GroundTruth, grid: Grid) -> Tensor:
    """The highest of the objects' Gaussians at every location (B, P), each cut off at its radius."""
    boxes, places = on_host(gt.boxes).astype(np.float64), on_host(corners).astype(np.float64)
    width, height = np.moveaxis(boxes[..., 2:] - boxes[..., :2], -1, 0)
    reach = 1.001 * gaussian_radius(width, height, MIN_IOU)[..., None] + 0.001  # which pixels are meant is decided on the device
    pairs = _locations_inside(np.concatenate([places - reach, places + reach], axis=-1), gt, grid)
    across, down = box_sizes(gt.boxes).unbind(-1)
    radii = gaussian_radius(across, down, MIN_IOU)
    radius, corner = radii.flatten()[pairs.gt_index], corners.flatten(0, 1)[pairs.gt_index]
    squared = (grid.points[pairs.prior_index % grid.num_points] - corner).square().sum(-1)
    heights = torch.exp(-squared / (2 * ((2 * radius + 1) / 6).square())) * (squared <= radius.square())
    heat = heights.new_zeros(len(corners) * grid.num_points)
    return heat.scatter_reduce_(0, pairs.prior_index, heights, "amax").view(len(corners), -1)


def _locations_inside(windows: np.ndarray, gt: GroundTruth, grid: Grid) -> Pairs:
    """The locations strictly inside a window (B, G, 4) of each object."""
    points = tuple(torch.empty(1, 4) for _ in grid.sizes)
    return points_inside(AssignContext(gt, Priors(grid, points)), windows)


def gaussian_radius(width: Lengths, height: Lengths, min_iou: float) -> Lengths:
    """How far both corners of a box may be off, each in any direction, for an IoU of at least ``min_iou`` in the worst case.

    Of the three cases that CornerNet's code tells apart, a box that lies inside the object has the lowest IoU, whatever the sides: one that
    is shifted or lies around the object keeps more. So the radius is the smaller root of (w - 2r) (h - 2r) = ``min_iou`` w h.
    """
    total, area = width + height, width * height
    return (total - (total**2 - 4 * (1 - min_iou) * area).clip(0) ** 0.5) / 4


def class_weights(gt: GroundTruth, num_classes: int, size: tuple[int, int], stride: int) -> Tensor:
    """Where on a level objects of each class lie: (B, K, H, W), one over the object's area in square pixels, else 0.

    An object fills the cells that its box touches. Of overlapping objects of a class the smallest counts. The objects have to be known on
    the host (:func:`detkit.host.on_host`).
    """
    first, last = np.split(np.floor(on_host(gt.boxes).astype(np.float64) / stride), 2, axis=-1)
    cells = Grid((size,), (stride,), 0.5, gt.boxes.device)
    pairs = _locations_inside(stride * np.concatenate([first, last + 1], axis=-1), gt, cells)
    weights = (1 / box_areas(gt.boxes).clamp(min=1)).flatten()[pairs.gt_index]
    number = cells.num_points
    image, cell = torch.div(pairs.prior_index, number, rounding_mode="floor"), pairs.prior_index % number
    place = (image * num_classes + pairs.classes(gt)) * number + cell
    empty = weights.new_zeros(len(gt.boxes) * num_classes * number)
    return empty.scatter_reduce_(0, place, weights, "amax").view(-1, num_classes, *size)
