"""Extreme points: where an object reaches farthest to the top, left, bottom and right (LSNet, section 4.1, after ExtremeNet)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_side_midpoints", "extreme_points", "relabeled"]

#: axis and sign of what is smallest at the top, left, bottom and right
_SIDES = ((1, 1), (0, 1), (1, -1), (0, -1))
#: the same as directions on the screen (x, y)
_DIRECTIONS = np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
#: points that are nearly as far out, by this share of the object's height or width, count as one flat end
_FLAT = 0.02


def extreme_points(points: NDArray[np.float64]) -> NDArray[np.float64]:
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


def box_side_midpoints(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The midpoints (..., 4, 2) of the sides of xyxy boxes (..., 4): stand in for the extreme points of objects without a mask."""
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return np.stack([np.stack(point, axis=-1) for point in ((x, y0), (x0, y), (x, y1), (x1, y))], axis=-2)


def relabeled(extremes: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extreme points (..., 4, 2) of an image that was mirrored or turned by quarters, in their usual order again.

    Args:
        axes: (2, 2) what became of the directions to the right and down, see :class:`detkit.data.Motion`.
    """
    became = ((_DIRECTIONS @ axes) @ _DIRECTIONS.T).argmax(axis=1)
    return extremes[..., became.argsort(), :]
