"""COCO annotations of a scene. They are modal: box, mask and area are those of the visible part, and agree with each other."""

from __future__ import annotations

import cv2
import numpy as np

from .scene import SUPERSAMPLING, Scene

__all__ = ["annotate_scene", "traced_polygons"]

_MIN_FRAGMENT = 2.0  # visible fragments below this many pixels are dropped


def annotate_scene(scene: Scene) -> list[dict]:
    """One COCO annotation per object, without ids of annotation and image; keypoints are zeros for classes that have none."""
    return [_annotate_object(scene, index) for index in range(len(scene.objects))]


def _annotate_object(scene: Scene, index: int) -> dict:
    mask = scene.owners == index + 1
    left, top, right, bottom = _bounds(mask)
    mask = _without_fragments(mask[top:bottom, left:right])
    origin = np.array([left, top])
    left, top, right, bottom = _bounds(mask) + np.tile(origin, 2)
    keypoints = _flagged_keypoints(scene, index)
    return {
        "category_id": scene.objects[index].label + 1,
        "bbox": [float(x) / SUPERSAMPLING for x in (left, top, right - left, bottom - top)],
        "area": float(mask.sum()) / SUPERSAMPLING**2,
        "iscrowd": 0,
        "segmentation": [polygon.ravel().tolist() for polygon in traced_polygons(mask, origin)],
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def _bounds(mask: np.ndarray) -> np.ndarray:
    """First and one past the last column and row of a mask: left, top, right, bottom."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _without_fragments(mask: np.ndarray) -> np.ndarray:
    """The mask without its smallest connected pieces; the largest piece always stays."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = areas >= _MIN_FRAGMENT * SUPERSAMPLING**2
    keep[1 + int(np.argmax(areas[1:]))] = True
    keep[0] = False
    return keep[pieces]


def _flagged_keypoints(scene: Scene, index: int) -> np.ndarray:
    """(17, 3): x and y as pixel indices (0 is the center of the first pixel, as in COCO) and 2 visible, 1 hidden, 0 outside or none."""
    points = scene.objects[index].outline.keypoints
    flagged = np.zeros((17, 3))
    if points is None:
        return flagged
    cells = np.floor(points * SUPERSAMPLING).astype(int)
    inside = ((cells >= 0) & (cells < scene.owners.shape[::-1])).all(axis=1)
    owner = scene.owners[cells[inside, 1], cells[inside, 0]]
    flagged[inside, :2] = np.round(points[inside] - 0.5, 2).clip(min=0)
    flagged[inside, 2] = np.where(owner == index + 1, 2, 1)
    return flagged


def traced_polygons(mask: np.ndarray, origin: np.ndarray) -> list[np.ndarray]:
    """Outer contours (N, 2), in pixels of the image, of a fine bool mask whose top left corner lies at ``origin`` (x, y, fine pixels).

    COCO polygons know no holes: a hole is joined to its contour by a cut of no width, so that filling the polygon leaves it open.
    """
    # OpenCV's contours run through the centers of border pixels; the smaller the pixels, the nearer to the border
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for index, contour in enumerate(contours):
        if hierarchy[0, index, 3] >= 0:  # a hole, joined to its parent below
            continue
        polygon = _simplified(contour)
        child = hierarchy[0, index, 2]
        while child >= 0:
            hole = _simplified(contours[child])
            if len(hole) >= 3:
                polygon = _with_hole(polygon, hole)
            child = hierarchy[0, child, 0]
        if len(polygon) >= 3:
            polygons.append(np.round(((polygon + 0.5) / 2 + origin) / SUPERSAMPLING, 2))
    return polygons


def _simplified(contour: np.ndarray) -> np.ndarray:
    """The contour (N, 2) without points that lie within one fine pixel of the rest."""
    return cv2.approxPolyDP(contour, 2.0, True)[:, 0].astype(float)


def _with_hole(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One closed ring that runs around ``outer``, along the shortest cut to ``hole``, around it and back."""
    distances = ((outer[:, None] - hole[None]) ** 2).sum(-1)
    at, into = np.unravel_index(int(distances.argmin()), distances.shape)
    return np.concatenate([outer[: at + 1], hole[into:], hole[: into + 1], outer[at:]])
