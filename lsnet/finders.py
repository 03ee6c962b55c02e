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

from detkit.data import Motion, Polygon, polygon_bounds, polygons_of, visible_parts

from .outlines import (
    box_outline,
    box_side_midpoints,
    contour,
    drop_tiny_parts,
    extreme_points,
    largest_part,
    mirrored_contour,
    relabeled,
)

__all__ = ["BoxSource", "ContourFinder", "ExtremePointFinder", "JoinedFinder", "KeypointFinder", "LandmarkFinder"]

Array = NDArray[np.float64]
#: which box stands for an object: the annotated one (tightened where an object with a mask was cut or turned), the bounds of its contour,
#: or those of its labeled keypoints
BoxSource = Literal["object", "contour", "keypoints"]

#: least side of a box around keypoints, in pixels: a single one would have none
_MIN_KEYPOINT_SIDE = 1.0


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
    """Landmarks that follow from the outline of an object, all of them seen; unknown, if :attr:`box_stands_in` is False, where the box has
    to stand in for the outline."""

    box_stands_in = True

    def __call__(self, annotation: dict[str, Any], box: Array, motion: Motion) -> tuple[Array, Array]:
        parts = polygons_of(annotation.get("segmentation"))
        known: Array | None = None
        if parts and self._keeps(motion) and not motion.cuts(polygon_bounds(parts)):
            still = self._of_parts(parts)
            known = None if still is None else self._moved(still, motion)
        elif parts:
            parts, box = _visible(parts, motion)
            known = self._of_parts(parts) if parts else None
        landmarks = self._of_box(box) if known is None else known
        visibility = 0.0 if known is None and not self.box_stands_in else 2.0
        return np.concatenate([landmarks, np.full((len(landmarks), 1), visibility)], axis=1), box

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
        box_stands_in: False: without a mask, or with a tiny one, the landmarks are unknown.
    """

    def __init__(self, num_landmarks: int, *, box_source: BoxSource = "contour", box_stands_in: bool = True) -> None:
        self.num_landmarks = num_landmarks
        self.box_source = box_source
        self.box_stands_in = box_stands_in

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
        done = "the outline of their box takes the place of their contour" if self.box_stands_in else "contours are not learned from them"
        message = f"Objects without a mask, or with a tiny one, are in the data: {done}."
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


class JoinedFinder(LandmarkFinder):
    """The landmarks of several finders, one behind the other, and the box of the first."""

    def __init__(self, finders: Sequence[LandmarkFinder]) -> None:
        self.finders = tuple(finders)
        self.num_landmarks = sum(finder.num_landmarks for finder in finders)

    def __call__(self, annotation: dict[str, Any], box: Array, motion: Motion) -> tuple[Array, Array]:
        found = [finder(annotation, box, motion) for finder in self.finders]
        return np.concatenate([landmarks for landmarks, _ in found]), found[0][1]
