"""From Detectron2's annotations to landmarks: extreme points, contours and keypoints of an object, each with a finder.

A finder reads the annotation as it was made and lets the landmarks move with the image, as the official code does. Where that would
be wrong, since the object was cut or turned, it finds them on the moved outline.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from detectron2.utils.logger import log_first_n
from numpy.typing import NDArray

from detkit.data import Motion, Polygon, polygon_bounds, polygons_of, signed_area, visible_parts

__all__ = ["BoxSource", "ContourFinder", "ExtremePointFinder", "KeypointFinder", "LandmarkFinder", "contours_of", "largest_part"]

Array = NDArray[np.float64]
#: which box stands for an object: the annotated one (tightened where an object with a mask was cut or turned), the bounds of its contour,
#: or those of its labeled keypoints
BoxSource = Literal["object", "contour", "keypoints"]

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
#: least side of a box around keypoints, in pixels: a single one would have none
_MIN_KEYPOINT_SIDE = 1.0


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


class LandmarkFinder(ABC):
    """Finds the landmarks of one object.

    Attributes:
        num_landmarks: how many, without the center of the box.
    """

    num_landmarks: int

    @abstractmethod
    def __call__(self, annotation: dict[str, Any], box: Array, motion: Motion) -> tuple[Array, Array]:
        """Landmarks and box of an object in the augmented image.

        Args:
            annotation: of Detectron2's dataset dict, as read.
            box: xyxy (4,), the annotated box after the augmentations, within the image.
            motion: what the augmentations did.

        Returns:
            (num_landmarks, 3) x and y in pixels, and visibility (0: unknown, 1: hidden, 2: seen); and the box (4,) that stands for the
            object, see :data:`BoxSource`, all zero where nothing of it is left in the image.
        """


class _OutlineFinder(LandmarkFinder):
    """Landmarks that follow from the outline of an object, all of them seen."""

    def __call__(self, annotation: dict[str, Any], box: Array, motion: Motion) -> tuple[Array, Array]:
        parts = polygons_of(annotation.get("segmentation"))
        if not parts:
            landmarks = self._of_box(box)
        elif self._keeps(motion) and not motion.cuts(polygon_bounds(parts)):
            known = self._of_parts(parts)
            landmarks = self._of_box(box) if known is None else self._moved(known, motion)
        else:
            parts, box = _visible(parts, motion)
            known = self._of_parts(parts) if parts else None
            landmarks = self._of_box(box) if known is None else known
        return np.concatenate([landmarks, np.full((len(landmarks), 1), 2.0)], axis=1), box

    @abstractmethod
    def _keeps(self, motion: Motion) -> bool:
        """Whether landmarks stay landmarks after this motion, as long as it cuts nothing."""

    @abstractmethod
    def _moved(self, landmarks: Array, motion: Motion) -> Array:
        """Landmarks (V, 2) after a motion that keeps them."""

    @abstractmethod
    def _of_parts(self, parts: Sequence[Polygon]) -> Array | None:
        """The landmarks (V, 2) of an object of at least one part; None where the parts are too small."""

    @abstractmethod
    def _of_box(self, box: Array) -> Array:
        """The landmarks where the outline is unknown, too small or not visible."""


def _visible(parts: Sequence[Polygon], motion: Motion) -> tuple[list[Polygon], Array]:
    """The visible parts of an object after a motion, and their box (4,), all zero where nothing is visible."""
    seen = visible_parts([motion.points(part) for part in parts], motion.image_size)
    return seen, polygon_bounds(seen) if seen else np.zeros(4)


class ExtremePointFinder(_OutlineFinder):
    """The top, left, bottom and right extreme point; without a mask, the midpoints of the sides of the box."""

    num_landmarks = 4

    def _keeps(self, motion: Motion) -> bool:
        return motion.axis_parallel

    def _moved(self, landmarks: Array, motion: Motion) -> Array:
        return relabeled(motion.points(landmarks), motion.axes)

    def _of_parts(self, parts: Sequence[Polygon]) -> Array:
        return extreme_points(np.concatenate(parts))

    def _of_box(self, box: Array) -> Array:
        return box_side_midpoints(box)


class ContourFinder(_OutlineFinder):
    """Points along the outline of the largest part; without a mask, or where all parts are tiny, along the box.

    Args:
        num_landmarks: how many points.
        box_source: ``"contour"`` or ``"object"``.
    """

    def __init__(self, num_landmarks: int, *, box_source: BoxSource = "contour") -> None:
        self.num_landmarks = num_landmarks
        self.box_source = box_source

    def __call__(self, annotation: dict[str, Any], box: Array, motion: Motion) -> tuple[Array, Array]:
        landmarks, box = super().__call__(annotation, box, motion)
        return landmarks, polygon_bounds([landmarks[:, :2]]) if self.box_source == "contour" else box

    def _keeps(self, motion: Motion) -> bool:
        return motion.upright  # the first landmark lies at the top

    def _moved(self, landmarks: Array, motion: Motion) -> Array:
        moved = motion.points(landmarks)
        return mirrored_contour(moved) if motion.mirrored else moved

    def _of_parts(self, parts: Sequence[Polygon]) -> Array | None:
        parts = drop_tiny_parts(parts)
        return contour(largest_part(parts), self.num_landmarks) if parts else None

    def _of_box(self, box: Array) -> Array:
        message = "Objects without a mask, or with a tiny one, are in the data: the outline of their box takes the place of their contour."
        log_first_n(logging.WARNING, message, key="message")
        return contour(box_outline(box), self.num_landmarks)


class KeypointFinder(LandmarkFinder):
    """Annotated keypoints. Those outside the image, and all of objects without keypoints, are unknown. Masks serve the boxes alone.

    Args:
        mirrored_order: of the keypoints: which one takes the place of each when the image is mirrored.
        box_source: ``"object"`` or ``"keypoints"``.
    """

    def __init__(self, mirrored_order: Sequence[int], *, box_source: BoxSource = "object") -> None:
        self.box_source = box_source
        self.mirrored_order = np.asarray(mirrored_order)
        self.num_landmarks = len(self.mirrored_order)

    def __call__(self, annotation: dict[str, Any], box: Array, motion: Motion) -> tuple[Array, Array]:
        keypoints = annotation.get("keypoints")
        landmarks = np.zeros((self.num_landmarks, 3)) if keypoints is None else np.array(keypoints, dtype=np.float64).reshape(-1, 3)
        if len(landmarks) != self.num_landmarks:
            raise ValueError(
                f"an object has {len(landmarks)} keypoints, but the dataset's metadata names {self.num_landmarks} (keypoint_names)"
            )
        landmarks[:, :2] = motion.points(landmarks[:, :2])
        landmarks[~motion.contains(landmarks[:, :2]), 2] = 0
        if motion.mirrored:
            landmarks = landmarks[self.mirrored_order]
        return landmarks, keypoint_box(landmarks) if self.box_source == "keypoints" else _tightened(annotation, box, motion)


def keypoint_box(keypoints: Array) -> Array:
    """The bounds (4,) of the labeled keypoints of (V, 3), at least a pixel wide and high; all zero where none is labeled."""
    labeled = keypoints[keypoints[:, 2] > 0, :2]
    if not len(labeled):
        return np.zeros(4)
    low, high = labeled.min(axis=0), labeled.max(axis=0)
    missing = np.maximum(_MIN_KEYPOINT_SIDE - (high - low), 0) / 2
    return np.concatenate([low - missing, high + missing])


def _tightened(annotation: dict[str, Any], box: Array, motion: Motion) -> Array:
    """The moved box or, where the object was turned or cut and has a mask, that of what is seen of it.

    The mask is read only where the box was turned or meets the border of the image, so that something may be cut.
    """
    height, width = motion.image_size
    within = box.min() > 0 and (box[2:] < [width, height]).all()
    parts = [] if motion.axis_parallel and within else polygons_of(annotation.get("segmentation"))
    if not parts or (motion.axis_parallel and not motion.cuts(polygon_bounds(parts))):
        return box
    return _visible(parts, motion)[1]
