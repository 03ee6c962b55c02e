"""From Detectron2's annotations to landmarks: one finder for each of the three tasks.

A finder looks at the annotation as it was made and lets the landmarks move with the image, as the official code does. Where that would
be wrong, since the object was cut or turned, it looks at the moved outline.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.utils.logger import log_first_n
from numpy.typing import NDArray

from detkit.data import Motion, Polygon, polygon_bounds, polygons_of, visible_parts

from .contours import box_outline, contour, drop_tiny_parts, largest_part, mirrored_contour
from .extremes import box_side_midpoints, extreme_points, relabeled

__all__ = ["ContourFinder", "ExtremePointFinder", "KeypointFinder", "LandmarkFinder"]

Array = NDArray[np.float64]


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
            (num_landmarks, 3) x and y in pixels, and visibility (0: unknown, 1: hidden, 2: seen); and the box (4,), tighter where the
            object was cut or turned and its outline is known, all zero where nothing of it is left in the image.
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
            parts, box = _in_sight(parts, motion)
            known = self._of_parts(parts) if parts else None
            landmarks = self._of_box(box) if known is None else known
        return np.concatenate([landmarks, np.full((len(landmarks), 1), 2.0)], axis=1), box

    @abstractmethod
    def _keeps(self, motion: Motion) -> bool:
        """Whether landmarks are landmarks after this motion too, as long as it cuts nothing."""

    @abstractmethod
    def _moved(self, landmarks: Array, motion: Motion) -> Array:
        """Landmarks (V, 2) after a motion that keeps them."""

    @abstractmethod
    def _of_parts(self, parts: Sequence[Polygon]) -> Array | None:
        """The landmarks (V, 2) of an object of at least one part; None where the parts are too small."""

    @abstractmethod
    def _of_box(self, box: Array) -> Array:
        """What stands in where the outline is unknown, too small or out of sight."""


def _in_sight(parts: Sequence[Polygon], motion: Motion) -> tuple[list[Polygon], Array]:
    """What is seen of an object's parts after a motion, and its box (4,), all zero where that is nothing."""
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
    """Points along the outline of the largest part; without a mask, or where all parts are tiny, along the box."""

    def __init__(self, num_landmarks: int) -> None:
        self.num_landmarks = num_landmarks

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
    """

    def __init__(self, mirrored_order: Sequence[int]) -> None:
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
        return (landmarks[self.mirrored_order] if motion.mirrored else landmarks), _tightened(annotation, box, motion)


def _tightened(annotation: dict[str, Any], box: Array, motion: Motion) -> Array:
    """The moved box or, where the object was turned or cut and has a mask, that of what is seen of it.

    The mask is looked at only where the box was turned or meets the border of the image, so that something may be cut.
    """
    height, width = motion.image_size
    within = box.min() > 0 and (box[2:] < [width, height]).all()
    parts = [] if motion.axis_parallel and within else polygons_of(annotation.get("segmentation"))
    if not parts or (motion.axis_parallel and not motion.cuts(polygon_bounds(parts))):
        return box
    return _in_sight(parts, motion)[1]
