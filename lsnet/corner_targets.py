"""What corner maps should show, and their losses (Chen et al., RepPoints v2, NeurIPS 2020, section 3.2; Law and Deng, CornerNet, ECCV
2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.assigners.windows import cell_limits, level_table, nearest_cells, scatter_to_priors
from detkit.distributed import reduce_mean
from detkit.geometry import Grid, box_areas
from detkit.structures import GroundTruth

from .corners import CornerMaps

__all__ = ["CornerCriterion", "CornerTargets", "class_weights", "corner_targets", "gaussian_focal_loss", "gaussian_radius"]

#: least IoU of a box whose corners lie within the radius of an object's corners
MIN_IOU = 0.7
#: objects whose Gaussians are drawn at a time
CHUNK = 16


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

    Where several corners have the same nearest location, the last object's counts (official code). Memory: all locations times
    :data:`CHUNK` objects.

    Args:
        corners: x, y in pixels.
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
    sizes = gt.boxes[..., 2:] - gt.boxes[..., :2]
    radii = gaussian_radius(sizes[..., 0], sizes[..., 1], MIN_IOU)
    deviations = (2 * radii + 1) / 6
    heat = corners.new_zeros(len(corners), grid.num_points)
    for start in range(0, corners.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        squared = (grid.points[:, None] - corners[:, None, part]).square().sum(-1)  # (B, P, chunk)
        near = (squared <= radii[:, None, part].square()) & gt.valid[:, None, part]
        heights = torch.exp(-squared / (2 * deviations[:, None, part].square())) * near
        heat = torch.maximum(heat, heights.amax(-1))
    return heat


def gaussian_radius(width: Tensor, height: Tensor, min_iou: float) -> Tensor:
    """How far both corners of a box may be off, each in any direction, for an IoU of at least ``min_iou`` in the worst case.

    The worst case is one of three: a box inside the object, one around it, or one that is shifted.
    """
    total, area = width + height, width * height

    def root(a: float, b: Tensor, c: Tensor) -> Tensor:
        """The smaller r with a r^2 - b r + c = 0."""
        return (b - (b.square() - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)

    shifted = root(1.0, total, area * (1 - min_iou) / (1 + min_iou))
    inside = root(4.0, 2 * total, (1 - min_iou) * area)
    around = -root(4 * min_iou, 2 * min_iou * total, (min_iou - 1) * area)
    return torch.minimum(torch.minimum(shifted, inside), around)


def gaussian_focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss of corner maps, per location (CornerNet, equation 1; exponents 2 and 4)."""
    probability = logits.sigmoid()
    at_corner = F.softplus(-logits) * (1 - probability).square()
    elsewhere = F.softplus(logits) * probability.square() * (1 - heat).pow(4)
    return torch.where(heat == 1, at_corner, elsewhere)


def class_weights(gt: GroundTruth, num_classes: int, size: tuple[int, int], stride: int) -> Tensor:
    """Where on a level objects of each class lie: (B, K, H, W), one over the object's area in square pixels, else 0.

    An object fills the cells that its box touches. Of overlapping objects of a class the smallest counts.
    """
    height, width = size
    first, last = (gt.boxes / stride).floor().chunk(2, dim=-1)  # x, y
    columns = torch.arange(width, device=gt.boxes.device)
    rows = torch.arange(height, device=gt.boxes.device)
    within_x = (columns >= first[..., :1]) & (columns <= last[..., :1])  # (B, G, W)
    within_y = (rows >= first[..., 1:]) & (rows <= last[..., 1:])
    inside = within_y[..., :, None] & within_x[..., None, :] & gt.valid[..., None, None]
    weights = inside / box_areas(gt.boxes).clamp(min=1)[..., None, None]  # (B, G, H, W)
    classes = gt.classes[..., None].expand(-1, -1, height * width)
    empty = weights.new_zeros(len(weights), num_classes, height * width)
    return empty.scatter_reduce_(1, classes, weights.flatten(2), "amax").view(-1, num_classes, height, width)


class CornerCriterion(nn.Module):
    """Losses of corner maps: ``loss_heatmap``, ``loss_offset``, ``loss_sem`` (RepPoints v2, section 3.2; weights of the official LSNet).

    Args:
        num_classes: K.
        heat_weight, offset_weight, class_weight: factors of the terms.
        offset_beta: of smooth L1, in cells.
        focal_alpha, focal_gamma: of the focal loss on the classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        heat_weight: float = 0.25,
        offset_weight: float = 1.0,
        class_weight: float = 0.1,
        offset_beta: float = 1 / 9,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.heat_weight = heat_weight
        self.offset_weight = offset_weight
        self.class_weight = class_weight
        self.offset_beta = offset_beta
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def forward(
        self, corners: Sequence[CornerMaps], gt: GroundTruth, grid: Grid, beyond: Tensor | None, valid_sizes: Tensor | None
    ) -> dict[str, Tensor]:
        """Scalar losses.

        Args:
            corners: of all levels.
            gt: the objects.
            grid: where the levels' cells lie.
            beyond: (B, P) bool, locations without a loss on their heat, or None.
            valid_sizes: (B, L, 2) rows and columns of each image's own area, or None for all.
        """
        heat = torch.cat([maps.heat.flatten(2) for maps in corners], dim=2).float()  # (B, 2, P)
        offsets = torch.cat([maps.offsets.flatten(2) for maps in corners], dim=2).float().unflatten(1, (2, 2))
        targets = [corner_targets(gt.boxes[..., side : side + 2], gt, grid, valid_sizes) for side in (0, 2)]
        positive = torch.stack([target.positive for target in targets], dim=1)
        per_place = gaussian_focal_loss(heat, torch.stack([target.heat for target in targets], dim=1))
        if beyond is not None:
            per_place = per_place.masked_fill(beyond[:, None], 0.0)
        wanted = torch.stack([target.offsets for target in targets], dim=1).transpose(2, 3)  # (B, 2, 2, P)
        distance = F.smooth_l1_loss(offsets, wanted, beta=self.offset_beta, reduction="none").sum(2) * positive
        near, far, weight, covered = self._class_sums(corners, gt, grid)
        sums = torch.cat([positive.sum((0, 2)).float(), torch.stack([weight, covered])])
        tl, br, weight, covered = reduce_mean(sums).unbind()
        counts = torch.stack([tl, br]).clamp(min=1)
        return {
            "loss_heatmap": self.heat_weight * (per_place.sum((0, 2)) / counts).mean(),
            "loss_offset": self.offset_weight * (distance.sum((0, 2)) / counts).mean(),
            "loss_sem": self.class_weight * (near / weight.clamp(min=1e-6) + far / covered.clamp(min=1)),
        }

    def _class_sums(self, corners: Sequence[CornerMaps], gt: GroundTruth, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the focal loss: its weighted sum where objects are, its sum elsewhere; the sum of the weights, the number of places."""
        finest = class_weights(gt, self.num_classes, grid.sizes[0], grid.strides[0])
        near, far, weight, covered = finest.new_zeros(4).unbind()
        for maps in corners:
            logits = maps.classes.float()
            weights = F.interpolate(finest, logits.shape[-2:])
            there = (weights > 0).float()
            cross_entropy = F.binary_cross_entropy_with_logits(logits, there, reduction="none")
            missed = (there - logits.sigmoid()).abs()
            loss = cross_entropy * missed.pow(self.focal_gamma)
            near = near + self.focal_alpha * (loss * weights).sum()
            far = far + (1 - self.focal_alpha) * (loss * (1 - there)).sum()
            weight, covered = weight + weights.sum(), covered + there.sum()
        return near, far, weight, covered
