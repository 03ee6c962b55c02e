"""ATSS label assignment on the boxes that a detector predicts (Zhang et al., CVPR 2020, section 3.1), where these stand for anchors: the
second stage of LSNet is assigned on the boxes that the first one predicts at every location."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.geometry import Priors, box_centers

from .atss import ATSSAssigner, Candidates
from .base import AssignContext
from .registry import ASSIGNER_REGISTRY

__all__ = ["PredictedATSSAssigner", "nearest_predictions"]

#: predictions that are looked at together
TILE = 64
#: tiles around an object that are looked at on a CPU, and objects from which on sorting the predictions for it pays
TILES_AROUND, MANY = 8, 64
#: distances that are computed at a time on a CPU, in its cache, and on other devices
BLOCK, LARGE_BLOCK = 1 << 20, 1 << 24


@ASSIGNER_REGISTRY.register()
class PredictedATSSAssigner(ATSSAssigner):
    """As :class:`detkit.assigners.ATSSAssigner`, with ``Predictions.boxes`` in the place of anchors, wherever their centers lie.

    Memory: objects x levels x topk. Time on a CPU: the same, and one look at every 64th prediction for each object; where predictions crowd
    around a point, and on a GPU, which would have to be waited for otherwise, one pass over all distances, block by block.
    """

    needs_predictions = True
    needs_anchors = False

    def candidates(self, context: AssignContext, padding: Tensor | None) -> Candidates:
        boxes = context.given_predictions.boxes
        return nearest_predictions(boxes, context.gt.boxes, context.grid_priors, self.topk, padding)


def nearest_predictions(boxes: Tensor, gt_boxes: Tensor, priors: Priors, k: int, padding: Tensor | None = None) -> Candidates:
    """The ``k`` boxes of each level whose centers are nearest to the center of each object; all of a level that has fewer.

    Args:
        boxes: (B, P, 4) xyxy in pixels.
        gt_boxes: (B, G, 4).
        priors: say which boxes belong to which level.
        k: per level, times the number of anchors per location.
        padding: (B, P) bool, boxes that take no part.

    Returns:
        candidates with M up to L * k * A.
    """
    centers, gt_centers = box_centers(boxes), box_centers(gt_boxes)
    if padding is not None:
        centers = centers.masked_fill(padding[..., None], torch.inf)
    found, near, end = [], [], 0
    for count in priors.per_level:
        start, end = end, end + count
        squared, place = _nearest(gt_centers, centers[:, start:end], min(k * priors.anchors_per_point, count))
        found.append(place.clamp(max=count - 1) + start)
        near.append(squared)
    index = torch.cat(found, dim=2)  # (B, G, M)
    rows = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    valid = torch.cat(near, dim=2).isfinite()
    return Candidates(index.permute(2, 0, 1), boxes[rows, index].permute(2, 0, 1, 3), valid.permute(2, 0, 1))


def _nearest(places: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and indices, (B, G, k) each, of the ``k`` points (B, N, 2) nearest to each place (B, G, 2).

    An index may be N or more where the distance is infinite.
    """
    if points.device.type == "cpu" and places.shape[1] >= MANY and k <= TILE and points.shape[1] >= 4 * TILES_AROUND * TILE:
        return _nearest_around(places, points, k)
    return _nearest_of_all(places, points, k)


def _nearest_around(places: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """:func:`_nearest` by a look at the tiles around each place, and at all points where these do not suffice, which is read.

    Points are sorted by y, and parts of equal size by x, so that tiles are of about the same extent along both axes whatever the points
    (Leutenegger et al., STR: a simple and efficient algorithm for R-tree packing, ICDE 1997).
    """
    batch, number, _ = points.shape
    parts = math.ceil(math.sqrt(number / TILE))
    size = math.ceil(number / (parts * TILE)) * TILE
    padded = F.pad(points, (0, 0, 0, parts * size - number), value=torch.inf)
    order = padded[..., 1].argsort(dim=1).view(batch, parts, size)
    across = padded[..., 0].gather(1, order.flatten(1)).view_as(order).argsort(dim=2)
    order = order.gather(2, across).view(batch, -1, TILE)
    tiles = torch.stack([axis.gather(1, order.flatten(1)).view_as(order) for axis in padded.unbind(-1)], dim=2)  # (B, T, 2, TILE)

    ends = zip(tiles.amin(-1).unbind(2), tiles.amax(-1).unbind(2), places.unbind(2), strict=True)  # of x, of y
    beyond = [torch.maximum(low[:, None] - at[..., None], at[..., None] - high[:, None]).clamp_(min=0).square_() for low, high, at in ends]
    least = (beyond[0] + beyond[1]).topk(TILES_AROUND + 1, dim=2, largest=False)  # of (B, G, T)
    images = torch.arange(batch)[:, None, None]
    chosen = least.indices[..., :-1]
    x, y = tiles[images, chosen].sub_(places[:, :, None, :, None]).square_().unbind(3)  # (B, G, tiles, TILE) each
    squared, place = (x + y).flatten(2).topk(k, dim=2, largest=False)
    tile = chosen.gather(2, torch.div(place, TILE, rounding_mode="floor"))
    index = order.flatten(1).gather(1, (tile * TILE + place % TILE).flatten(1)).view_as(place)
    open_ends = ~(squared[..., -1] <= least.values[..., -1])
    for image in open_ends.any(1).nonzero().flatten().tolist():
        again = open_ends[image].nonzero().flatten()
        found = _nearest_of_all(places[image : image + 1, again], points[image : image + 1], k)
        squared[image, again], index[image, again] = found[0][0], found[1][0]
    return squared, index


def _nearest_of_all(places: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """:func:`_nearest` without reading a value. The k nearest points lie in the k tiles whose nearest point is nearest, so that most
    distances are compared only within their tile."""
    batch, num_places, _ = places.shape
    across, down = F.pad(points, (0, 0, 0, -points.shape[1] % TILE), value=torch.inf)[:, None].unbind(-1)  # (B, 1, tiles * TILE)
    size = max((BLOCK if points.device.type == "cpu" else LARGE_BLOCK) // (batch * across.shape[-1]), 1)
    parts = [_nearest_of_block(part, across, down, k) for part in places.split(size, dim=1)] if num_places else []
    if not parts:
        return places.new_zeros(batch, 0, k), torch.zeros(batch, 0, k, dtype=torch.int64, device=places.device)
    squared, index = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    return squared, index


def _nearest_of_block(places: Tensor, across: Tensor, down: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """:func:`_nearest_of_all` of some places, of points in tiles given by x and y (B, 1, tiles * TILE)."""
    x, y = places[..., None].unbind(2)  # (B, block, 1)
    squared, vertical = (across - x).square_(), down - y
    tiles = squared.addcmul_(vertical, vertical).unflatten(2, (-1, TILE))  # (B, block, tiles, TILE)
    best = tiles.amin(-1).topk(min(k, tiles.shape[2]), dim=2, largest=False, sorted=False).indices
    within = tiles.gather(2, best[..., None].expand(-1, -1, -1, TILE)).flatten(2)
    nearest, place = within.topk(k, dim=2, largest=False)
    return nearest, best.gather(2, torch.div(place, TILE, rounding_mode="floor")) * TILE + place % TILE
