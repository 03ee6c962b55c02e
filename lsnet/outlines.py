"""Outlines of objects as landmarks: their extreme points, points spread along them, and the parts that are large enough to have any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.data import Polygon, polygon_bounds, signed_area

__all__ = [
    "box_outline",
    "box_side_midpoints",
    "contour",
    "contours_of",
    "drop_tiny_parts",
    "extreme_points",
    "largest_part",
    "mirrored_contour",
    "oriented",
    "relabeled",
    "resampled",
    "started_at_top",
]

Array = NDArray[np.float64]

#: axis and sign of what is smallest at the top, left, bottom and right
_SIDES = ((1, 1), (0, 1), (1, -1), (0, -1))
#: the same as directions on the screen (x, y)
_DIRECTIONS = np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
#: points that are nearly as far out, by this share of the object's height or width, count as one flat end
_FLAT = 0.02
#: the outline is first sampled this many times more densely
_SPLINE_POINTS = 10
#: parts of a mask below these are left out: sides in pixels, area in square pixels
_MIN_SIDE = 1.0
_MIN_AREA = 5.0


def extreme_points(points: Array) -> Array:
    """Top, left, bottom and right of an object.

    The end of an object is often flat. So the run of neighboring points around the first extreme one that are all within 2 % of the
    object's side counts as the end, and its middle, rounded down to a whole pixel, as the extreme point (official
    ``gen_coco_lsvr.py``, which lets a run cross the seam of the outline by one point only).

    Args:
        points: (N, 2) x, y along the outline, one piece after the other; or the pixels of a mask, row by row. N >= 1.

    Returns:
        (4, 2) x, y.
    """
    flat = _FLAT * (np.ptp(points, axis=0) + 1)
    ring = np.concatenate([points[-1:], points, points[:1]])
    found = np.empty((4, 2), dtype=points.dtype)
    for index, (axis, sign) in enumerate(_SIDES):
        outwards = sign * ring[:, axis]
        first = int(outwards.argmin())
        beyond = np.flatnonzero(outwards - outwards[first] > flat[axis])
        split = int(np.searchsorted(beyond, first))
        start = beyond[split - 1] + 1 if split else 0
        stop = beyond[split] if split < len(beyond) else len(ring)
        along = ring[start:stop, 1 - axis]
        found[index, axis] = ring[first, axis]
        found[index, 1 - axis] = (along.max() + along.min()) // 2
    return found


def box_side_midpoints(boxes: Array) -> Array:
    """The midpoints (..., 4, 2) of the sides of xyxy boxes (..., 4): the extreme points of objects without a mask."""
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return np.stack([x, y0, x0, y, x, y1, x1, y], axis=-1).reshape(*boxes.shape[:-1], 4, 2)


def relabeled(extremes: Array, axes: Array) -> Array:
    """Extreme points (..., 4, 2) of an image that was mirrored or turned by quarters, in their usual order again.

    Args:
        axes: (2, 2) what became of the directions to the right and down, see :class:`detkit.data.Motion`.
    """
    became = ((_DIRECTIONS @ axes) @ _DIRECTIONS.T).argmax(axis=1)
    return extremes[..., became.argsort(), :]


def contour(outline: Polygon, num_points: int) -> Polygon:
    """The landmarks (num_points, 2) of one outline: evenly spread along it, always in the same direction, from the top center on.

    The outline is sampled ten times more densely, of which every tenth point is a landmark.
    """
    return started_at_top(oriented(resampled(outline, num_points * _SPLINE_POINTS)[::_SPLINE_POINTS]))


def contours_of(parts: Sequence[Polygon], box: Array, num_points: int) -> list[Polygon]:
    """The contour of every part of an object that is not tiny; that of its xyxy box where no part is left."""
    return [contour(part, num_points) for part in drop_tiny_parts(parts) or [box_outline(box)]]


def resampled(outline: Polygon, count: int) -> Polygon:
    """``count`` points of a closed outline (N, 2).

    With at most as many vertices, each edge is cut into equal pieces: as many as its share of the perimeter says, at least one, and the
    remainder of rounding goes to the longest edges. With more, the starts of the ``count`` longest edges are kept.
    """
    edges = np.roll(outline, -1, axis=0) - outline
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    longest_first = np.argsort(lengths)[::-1]
    if len(outline) > count:
        return outline[np.sort(longest_first[:count])]
    pieces = _pieces(lengths, longest_first, count)
    edge = np.repeat(np.arange(len(outline)), pieces)
    step = np.arange(count) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return outline[edge] + edges[edge] * (step / pieces[edge])[:, None]


def _pieces(lengths: Array, longest_first: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Into how many pieces each edge is cut, ``count`` in all."""
    perimeter = lengths.sum()
    shares = lengths * count / perimeter if perimeter > 0 else np.ones_like(lengths)
    pieces = np.maximum(np.round(shares), 1).astype(np.int64)
    surplus = int(pieces.sum()) - count
    if surplus > 0:
        removable = pieces[longest_first] - 1
        removed_before = np.cumsum(removable) - removable
        pieces[longest_first] -= np.clip(surplus - removed_before, 0, removable)
    else:
        pieces[longest_first[0]] -= surplus
    return pieces


def oriented(outline: Polygon) -> Polygon:
    """The same outline, counter-clockwise on the screen (clockwise where y points up, as the official code counts)."""
    return outline[::-1] if signed_area(outline) >= 0 else outline


def started_at_top(outline: Polygon) -> Polygon:
    """The same outline from the point on that is nearest to the middle of the upper side of its bounding box."""
    x0, y0, x1, _ = polygon_bounds([outline])
    distances = ((outline - ((x0 + x1) / 2, y0)) ** 2).sum(axis=1)
    return np.roll(outline, -int(distances.argmin()), axis=0)


def mirrored_contour(contours: Array) -> Array:
    """Contours (..., V, 2) of a mirrored image, put into their usual direction again. The first landmark stays the first."""
    return contours[..., -np.arange(contours.shape[-2]), :]


def drop_tiny_parts(parts: Sequence[Polygon]) -> list[Polygon]:
    """The parts that are at least one pixel wide and high and larger than five square pixels."""
    kept = []
    for part in parts:
        x0, y0, x1, y1 = polygon_bounds([part])
        if x1 - x0 >= _MIN_SIDE and y1 - y0 >= _MIN_SIDE and abs(signed_area(part)) > _MIN_AREA:
            kept.append(part)
    return kept


def largest_part(parts: Sequence[Polygon]) -> Polygon:
    """The part with the largest area."""
    return max(parts, key=lambda part: abs(signed_area(part))) if len(parts) > 1 else parts[0]


def box_outline(box: Array) -> Polygon:
    """The corners (4, 2) of an xyxy box: top left, bottom left, bottom right, top right."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)
