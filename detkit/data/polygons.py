"""Outlines of objects as polygons: from any annotation, and cut where the image ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.structures.masks import polygons_to_bitmask
from numpy.typing import NDArray
from pycocotools import mask as mask_util

__all__ = ["Polygon", "mask_to_polygons", "polygon_bounds", "polygons_of", "signed_area", "visible_parts"]

#: (N, 2) x, y of the vertices in pixels, not closed; pixel (0, 0) reaches from 0 to 1
Polygon = NDArray[np.float64]

#: how far an outline may lie from the pixels that it was traced along: in these pixels, few enough for the smallest objects, and as a
#: share of the object's longer side, enough for large ones not to have hundreds of vertices
_SMOOTHING, _RELATIVE_SMOOTHING = 0.4, 0.003
#: an object that is cut is drawn this large, in pixels of its longer side, but magnified no more than
_FINE_SIDE = 512.0
_FINEST = 8.0


def polygons_of(segmentation: Any) -> list[Polygon]:
    """The outlines of an object's pieces. Holes are left out. Outlines of masks are made smooth, within about half a pixel.

    Args:
        segmentation: as in Detectron2's dataset dicts: polygons (lists of x, y, x, y, ...), run lengths (a dict), or a (H, W) mask.

    Returns:
        empty where nothing is annotated. Polygons of fewer than three vertices are left out.
    """
    if segmentation is None:
        return []
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        encoded = mask_util.frPyObjects(segmentation, *segmentation["size"]) if isinstance(counts, list) else segmentation
        segmentation = mask_util.decode(encoded)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        return [_smoothed(outline) for outline in mask_to_polygons(segmentation)]
    return [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation if len(part) >= 6]


def mask_to_polygons(mask: NDArray[Any]) -> list[Polygon]:
    """The outer borders of the connected pieces (8 neighbors) of a mask (H, W), along the edges of its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    filled = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(bool).astype(np.uint8)
    # OpenCV walks along the centers of border pixels. With every pixel doubled, the even half lies at its left (upper) edge and the
    # odd one at its right (lower) edge.
    doubled = filled.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = [((contour[:, 0] + 1) // 2 + [left, top]).astype(np.float64) for contour in contours]
    return [polygon[(polygon != np.roll(polygon, 1, axis=0)).any(axis=1)] for polygon in corners]


def _smoothed(outline: Polygon) -> Polygon:
    """An outline along the edges of pixels without their steps, which are cut off at the middles of the edges."""
    ahead = np.sign(np.roll(outline, -1, axis=0) - outline) / 2
    cut = np.stack([outline - np.roll(ahead, 1, axis=0), outline + ahead], axis=1).reshape(-1, 2)
    tolerance = max(_SMOOTHING, _RELATIVE_SMOOTHING * float(np.ptp(outline, axis=0).max()))
    return cv2.approxPolyDP(cut.astype(np.float32), tolerance, True)[:, 0].astype(np.float64)


def visible_parts(polygons: Sequence[Polygon], image_size: tuple[int, int]) -> list[Polygon]:
    """The outlines of what lies within an image of (height, width).

    Polygons of which nothing is cut are returned as they are. Else one outline for each connected piece of the rest, to about a third of a
    percent of its longer side.
    """
    polygons = [polygon for polygon in polygons if len(polygon) >= 3]
    if not polygons:
        return []
    height, width = image_size
    limits = np.array([width, height, width, height], dtype=np.float64)
    bounds = polygon_bounds(polygons)
    x0, y0, x1, y1 = bounds.clip(0, limits)
    if (bounds == [x0, y0, x1, y1]).all():
        return polygons
    origin = np.floor([x0, y0])
    sides = np.ceil([x1, y1]) - origin
    if sides.min() < 1:
        return []
    scale = min(_FINE_SIDE / sides.max(), _FINEST)
    columns, rows = np.ceil(sides * scale).astype(int)
    mask = polygons_to_bitmask([((polygon - origin) * scale).ravel() for polygon in polygons], int(rows), int(columns))
    return [_smoothed(outline) / scale + origin for outline in mask_to_polygons(mask)]


def polygon_bounds(polygons: Sequence[Polygon]) -> NDArray[np.float64]:
    """The xyxy box (4,) around all vertices."""
    points = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def signed_area(polygon: Polygon) -> float:
    """In square pixels: negative where, on the screen (y down), the outline runs counter-clockwise."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
