"""Images with objects drawn on them, small enough to be embedded in a page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from detectron2.utils.visualizer import GenericMask, Visualizer
from matplotlib import rc_context
from numpy.typing import NDArray
from PIL import Image

from detkit.data import ImageReadError, read_image

__all__ = ["DrawnObject", "PictureError", "Picture", "canvas", "draw_objects", "encoded", "read_rgb"]

RGBImage = NDArray[np.uint8]
#: longer side of a picture in pixels
PICTURE_SIZE = 520
#: size of labels in points, at 100 dots per inch
LABEL_SIZE = 11.0
#: on crowded images only the largest objects are labeled
MAX_LABELS = 12


class PictureError(ValueError):
    """An image that cannot be drawn on. The message names the file and the remedy."""


@dataclass(frozen=True)
class Picture:
    """An encoded image: ``uri`` holds all of it, ``alt`` describes it."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class DrawnObject:
    """What is drawn of one object.

    Args:
        box: xyxy in pixels of the image.
        label: text beside the box; "" for none.
        color: of box, mask and text, as matplotlib takes it.
        dashed: draw the box dashed.
        segmentation: polygons or RLE as in COCO's json, or None.
        keypoints: (N, 3) x, y and visibility or score, or None.
    """

    box: tuple[float, float, float, float]
    label: str
    color: str
    dashed: bool = False
    segmentation: Any = None
    keypoints: NDArray[np.float64] | None = field(default=None, compare=False)


def read_rgb(path: str | os.PathLike[str]) -> RGBImage:
    """An image file as (H, W, 3) RGB, rotated by its EXIF orientation.

    Raises:
        PictureError: missing or broken; names the file.
    """
    try:
        return np.asarray(read_image(path, "RGB", deep_images="own_range"), dtype=np.uint8)
    except ImageReadError as error:
        raise PictureError(f"{path}: the image cannot be read ({error}). Restore the file; the pictures of the page need it.") from error


def canvas(image: RGBImage, metadata: Any = None, *, size: int = PICTURE_SIZE) -> Visualizer:
    """A Detectron2 visualizer that draws lines and texts of the same size on images of any size.

    Args:
        size: of the longer side of the picture, in pixels.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    default_font = max(np.sqrt(height * width) // 90, 10 // scale)
    visualizer = Visualizer(image, metadata, scale=scale, font_size_scale=7.5 / scale / default_font)
    visualizer.output.ax.images[0].set_interpolation("antialiased")
    return visualizer


def draw_objects(image: RGBImage, objects: Sequence[DrawnObject], *, metadata: Any = None, size: int = PICTURE_SIZE) -> RGBImage:
    """The image with objects drawn, the largest first, and labels on the largest.

    Args:
        metadata: of a dataset of Detectron2; gives the names of keypoints and how they are connected.
        size: of the longer side of the picture, in pixels.
    """
    visualizer = canvas(image, metadata, size=size)
    height, width = image.shape[:2]
    by_size = sorted(objects, key=lambda item: -_area(item.box))
    for item in by_size:
        visualizer.draw_box(item.box, alpha=1.0, edge_color=item.color, line_style=(0, (3, 2)) if item.dashed else "-")
        if item.segmentation:
            for polygon in GenericMask(item.segmentation, height, width).polygons:
                visualizer.draw_polygon(polygon.reshape(-1, 2), item.color, alpha=0.35)
        if item.keypoints is not None:
            visualizer.draw_and_connect_keypoints(item.keypoints)
    with rc_context({"text.parse_math": False}):
        for item in by_size[:MAX_LABELS]:
            if item.label:
                _draw_label(visualizer, item, width)
    return visualizer.output.get_image()


def encoded(image: RGBImage, alt: str, *, quality: int = 78) -> Picture:
    """The image as JPEG in a data address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, alt, width=image.shape[1], height=image.shape[0])


def _draw_label(visualizer: Visualizer, item: DrawnObject, width: int) -> None:
    """Above the box, or inside where the image ends; to the left from its right corner where the image ends soon."""
    scale = visualizer.output.scale
    x0, y0, x1, _ = item.box
    text_height = 1.75 * LABEL_SIZE / scale
    at_right = x0 > 0.7 * width
    visualizer.draw_text(
        item.label,
        (min(x1, width) if at_right else max(x0, 0), y0 - text_height if y0 >= text_height else max(y0, 0)),
        color=item.color,
        horizontal_alignment="right" if at_right else "left",
        font_size=LABEL_SIZE / scale,
    )


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
