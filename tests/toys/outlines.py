"""Annotations of objects of all kinds, for an image of :data:`SIZE` (the fixture ``image_file``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from detkit.data import polygon_bounds, polygons_of

#: (height, width) of the image
SIZE = (120, 160)


def annotation(segmentation: Any = None, *, box: list[float] | None = None, keypoints: Any = None, crowd: int = 0) -> dict[str, Any]:
    """An object as in Detectron2's dataset dicts; its box is that of its outline if none is given."""
    made: dict[str, Any] = {"category_id": 0, "iscrowd": crowd, "bbox_mode": BoxMode.XYXY_ABS}
    made["bbox"] = polygon_bounds(polygons_of(segmentation)).tolist() if box is None else [float(x) for x in box]
    if segmentation is not None:
        made["segmentation"] = segmentation
    if keypoints is not None:
        made["keypoints"] = np.asarray(keypoints, dtype=float).ravel().tolist()
    return made


def bean(x: float = 80, y: float = 60, size: float = 40) -> list[float]:
    """A smooth outline that is neither convex nor symmetric, x, y, x, y, ..."""
    angle = np.linspace(0, 2 * np.pi, 61)[:-1]
    radius = size * (0.7 + 0.2 * np.cos(2 * angle + 0.5) + 0.1 * np.sin(3 * angle))
    return np.stack([x + radius * np.cos(angle), y + 0.8 * radius * np.sin(angle)], axis=1).ravel().tolist()
