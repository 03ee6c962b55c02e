"""Which priors an object may get: candidate bags, as lists of pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from detkit.geometry import Priors, box_centers, boxes_to_ltrb
from detkit.host import on_host, send
from detkit.structures import GroundTruth, HardAssignment

from .atss import nearest_on_grid
from .base import AssignContext
from .soft import Pairs
from .windows import padding_mask

__all__ = [
    "CenterPrior",
    "center_distance",
    "hard_labels",
    "nearest_points",
    "pair_points",
    "points_inside",
    "points_near_center",
]


def points_inside(context: AssignContext, boxes: np.ndarray | None = None) -> Pairs:
    """All priors whose location lies strictly inside an object, on every level.

    The locations of a level inside a box are a range of columns in each of a range of rows. The ranges, and with them the number of pairs,
    are made on the host of the boxes that were packed there, and sent; nothing but the pairs themselves is made, and nothing waits.

    Args:
        context: objects and priors.
        boxes: (B, G, 4) float32, other boxes in place of the objects' own, e.g. their middles, made of
            :func:`detkit.host.on_host` of these.
    """
    gt, priors = context.gt, context.grid_priors
    columns, rows, bases, widths = _ranges_inside(on_host(gt.boxes) if boxes is None else boxes, context)
    rows = rows * (columns > 0)
    window = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(window)) - np.repeat(rows.cumsum() - rows, rows)
    length = columns[window]
    first = bases[window] + row * widths[window]
    table = np.stack([length, first - length.cumsum() + length, window // priors.grid.num_levels])
    total = int(length.sum())
    lengths, offsets, objects = send(table, gt.boxes.device).unbind(0)
    of_pair = torch.repeat_interleave(lengths, output_size=total)
    point_index = offsets.index_select(0, of_pair) + torch.arange(total, device=of_pair.device)
    gt_index = objects.index_select(0, of_pair)
    sizes = (columns * rows).reshape(-1, priors.grid.num_levels).sum(1) * priors.anchors_per_point
    return replace(_anchors_of(point_index, gt_index, priors.anchors_per_point), sizes=sizes)


def _ranges_inside(boxes: np.ndarray, context: AssignContext) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every image, object and level, in this order, the locations strictly inside boxes (B, G, 4): numbers of columns and of rows, index
    of the first location in the batch, and locations in a row of the level."""
    grid, valid = context.grid_priors.grid, on_host(context.gt.valid)
    sizes = np.asarray(grid.sizes)[:, ::-1].T[..., None, None]  # (2, L, 1, 1): x, y
    limits = sizes
    if context.valid_sizes is not None:
        limits = np.minimum(on_host(context.valid_sizes)[..., ::-1].transpose(2, 1, 0)[..., None], sizes)
    low, high = boxes.astype(np.float64).transpose(2, 0, 1).reshape(2, 2, 1, *valid.shape)  # (2, 1, B, G)
    strides = np.asarray(grid.strides, np.float64)[:, None, None]
    first = np.clip(np.floor(low / strides - grid.offset) + 1, 0, None).astype(np.int64)  # (2, L, B, G)
    end = np.minimum(np.ceil(high / strides - grid.offset).astype(np.int64), limits)
    columns, rows = np.clip(end - first, 0, None) * valid
    starts = np.asarray(grid.level_starts[:-1])[:, None, None] + np.arange(len(boxes))[:, None] * grid.num_points
    bases = first[1] * sizes[0] + first[0] + starts
    widths = np.broadcast_to(sizes[0], bases.shape)
    return tuple(x.transpose(1, 2, 0).reshape(-1) for x in (columns, rows, bases, widths))


def points_near_center(context: AssignContext, radius: float) -> Pairs:
    """The priors inside an object whose location is less than ``radius`` strides away from its center (DW, table 4, "threshold")."""
    pairs = points_inside(context)
    near = center_distance(pairs, context.gt, context.grid_priors).square().sum(-1) < radius**2
    return pairs.select(near)


def nearest_points(context: AssignContext, topk: int) -> Pairs:
    """The priors inside an object among those on the ``topk`` locations of each level that are nearest to its center (DW, table 4)."""
    gt, priors = context.gt, context.grid_priors
    found = nearest_on_grid(gt.boxes, priors, topk, context.valid_sizes)  # (N, B, G)
    images = torch.arange(len(gt.boxes), device=gt.boxes.device)[:, None]
    prior_index = (found.prior_index + images * priors.num_priors).movedim(0, -1)  # (B, G, N)
    gt_index = torch.arange(gt.valid.numel(), device=gt.boxes.device).view(*gt.valid.shape, 1).expand_as(prior_index)
    pairs = Pairs(prior_index.flatten(), gt_index.flatten())
    inside = (boxes_to_ltrb(pairs.gt_boxes(gt), pair_points(pairs, priors)[0]) > 0).all(-1)
    return pairs.select(inside & (found.valid & gt.valid).movedim(0, -1).flatten())


def pair_points(pairs: Pairs, priors: Priors) -> tuple[Tensor, Tensor]:
    """Location (M, 2) and stride (M,) of each pair's prior, in pixels."""
    index = pairs.prior_index % priors.num_priors
    return priors.points.index_select(0, index), priors.strides.index_select(0, index)


def hard_labels(pairs: Pairs, context: AssignContext, chosen: Tensor) -> HardAssignment:
    """Labels from the pairs that are chosen (M,), no prior in two of them; everything else is background."""
    batch, num_gts = context.gt.valid.shape
    num_priors = context.grid_priors.num_priors
    nowhere = batch * num_priors
    gt_index = pairs.gt_index.new_full((nowhere + 1,), -1)
    place = torch.where(chosen, pairs.prior_index, nowhere)
    gt_index = gt_index.scatter(0, place, pairs.gt_index % max(num_gts, 1))[:-1]
    return HardAssignment(gt_index.view(batch, num_priors), padding_mask(context.grid_priors, context.valid_sizes))


def center_distance(pairs: Pairs, gt: GroundTruth, priors: Priors) -> Tensor:
    """(M, 2) signed distance in x and y from the center of each pair's object to its location, in strides of the location's level."""
    return _distances_in_strides(pairs, gt, priors, _of_pairs(pairs, box_centers(gt.boxes))).t()


def _distances_in_strides(pairs: Pairs, gt: GroundTruth, priors: Priors, centers: Tensor) -> Tensor:
    """(2, M) from the centers (2, M) of the pairs' objects to their locations."""
    batch, num_gts = gt.valid.shape
    before = torch.arange(batch, device=centers.device).repeat_interleave(num_gts, output_size=batch * num_gts) * priors.num_priors
    index = pairs.prior_index - before.index_select(0, pairs.gt_index)
    return (priors.points.t().contiguous().index_select(1, index) - centers) / priors.strides.index_select(0, index)


def _of_pairs(pairs: Pairs, values: Tensor) -> Tensor:
    """(C, M) of the values (B, G, C) of the objects."""
    return values.flatten(0, 1).t().contiguous().index_select(1, pairs.gt_index)


class CenterPrior(nn.Module):
    """How much a location counts by its distance from the object's center: a Gaussian per class (AutoAssign, equation 7; DW, table 4).

    Args:
        num_classes: K.
        sigma: width in strides. strongwolf/DW has 1.11; 0.7071 makes it the ``exp(-r ** 2)`` of DW's table 4.
        learned: whether mean and width of each class are parameters (AutoAssign) or constants (DW). Both travel with the checkpoint.
    """

    mean: Tensor
    sigma: Tensor

    def __init__(self, num_classes: int, *, sigma: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"The width of a center prior is a positive number of strides, not {sigma}.")
        mean, width = torch.zeros(num_classes, 2), torch.full((num_classes, 2), sigma)
        if learned:
            self.mean, self.sigma = nn.Parameter(mean), nn.Parameter(width)
        else:
            self.register_buffer("mean", mean)
            self.register_buffer("sigma", width)

    def forward(self, pairs: Pairs, gt: GroundTruth, priors: Priors) -> Tensor:
        """(M,) in (0, 1]."""
        mean, spread = self.mean[gt.classes], 2 * self.sigma[gt.classes].square()  # (B, G, 2)
        centers, mean, spread = _of_pairs(pairs, torch.cat([box_centers(gt.boxes), mean, spread], dim=-1)).split(2)
        offset = _distances_in_strides(pairs, gt, priors, centers) - mean
        along_x, along_y = (-offset.square() / spread).exp().unbind(0)
        return along_x * along_y


def _anchors_of(point_index: Tensor, gt_index: Tensor, num_anchors: int) -> Pairs:
    """From pairs with locations to pairs with the anchors on them."""
    if num_anchors == 1:
        return Pairs(point_index, gt_index)
    anchors = torch.arange(num_anchors, device=point_index.device)
    return Pairs((point_index[:, None] * num_anchors + anchors).flatten(), gt_index.repeat_interleave(num_anchors))
