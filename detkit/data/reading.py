"""Reads image files: whole or not at all, and never clipped to black or white."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import IO, Literal

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image

try:
    import simplejpeg
except ImportError:  # an extra
    simplejpeg = None

__all__ = ["DEEP_MODES", "DeepImages", "ImageReadError", "deep_image_problem", "pixels_of", "read_image", "reading_with"]

#: what is done with images of more than 8 bits per channel: they are refused, or scaled to 0..255 from the whole range of their type
#: (0 to 65535 of 16 bits, 0 to 2**31 - 1 of 32 bits, 0 to 1 of floating-point numbers) or from their own least and greatest value
DeepImages = Literal["error", "full_range", "own_range"]

#: Pillow's modes with more than 8 bits, which it would clip at 255, and the ends of their ranges
DEEP_MODES: dict[str, float] = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "I": 2**31 - 1, "F": 1.0}


_EXIF_ORIENTATION = 0x0112
#: Pillow's formats whose files are programs: it hands them to Ghostscript, or to the system's own drawing
_PROGRAMS = frozenset({"EPS", "WMF", "EMF"})


class ImageReadError(ValueError):
    """An image file that cannot be read. The message says why; it does not name the file."""


def read_image(file_name: str | os.PathLike[str], format: str | None = None, *, deep_images: DeepImages = "error") -> NDArray[np.generic]:
    """The pixels of an image file, turned as its EXIF orientation says, as Detectron2's function of this name gives them.

    Args:
        format: order of the channels: "RGB", "BGR", "L", "YUV-BT.601", or another mode of Pillow; None: as in the file.
        deep_images: see :data:`detkit.data.reading.DeepImages`.

    Returns:
        (H, W, C), from 0 to 255, uint8 but for "YUV-BT.601".

    Raises:
        ImageReadError: missing, cut off, damaged, or of more than 8 bits per channel where these are refused.
    """
    try:
        with PathManager.open(str(file_name), "rb") as file, Image.open(file) as image:
            pixels = _fast_jpeg(file, image, format)
            return pixels_of(image, format, deep_images=deep_images) if pixels is None else pixels
    except ImageReadError:
        raise
    except Exception as error:  # Pillow's formats raise errors of many types for damaged files
        raise ImageReadError(str(error).replace(str(file_name), "the file") or type(error).__name__) from error


def pixels_of(image: Image.Image, format: str | None = None, *, deep_images: DeepImages = "error") -> NDArray[np.generic]:
    """The same of an image of Pillow.

    Raises:
        ImageReadError: more than 8 bits per channel where these are refused, a format that is drawn by running it; and what Pillow raises
            for damaged files.
    """
    if image.format in _PROGRAMS:
        raise ImageReadError(f"it is a drawing in {image.format}, which is not run here; convert it to PNG")
    image.load()  # before anything else: reading EXIF data of a damaged PNG would hide the damage
    turned = detection_utils._apply_exif_orientation(image)
    return detection_utils.convert_PIL_to_numpy(_eight_bits(turned, deep_images), format)


def _fast_jpeg(file: IO[bytes], image: Image.Image, format: str | None) -> NDArray[np.generic] | None:
    """The pixels of a JPEG file by simplejpeg, which takes less time than Pillow for the same pixels (``benchmarks/resized_pixels.py``).

    Args:
        file: the whole of it is read; Pillow may read it afterwards.
        image: which Pillow has opened in it, and has not decoded.

    Returns:
        (H, W, 3); None where Pillow is to read it: simplejpeg is not installed, the file is no such one, has to be turned, or is damaged,
        which Pillow explains.
    """
    plain = image.format == "JPEG" and image.mode in ("RGB", "L") and format in ("RGB", "BGR")
    if simplejpeg is None or not plain or image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        return None
    position = file.tell()
    file.seek(0)
    try:
        pixels: NDArray[np.generic] = simplejpeg.decode_jpeg(file.read(), format)
    except ValueError:
        return None
    finally:
        file.seek(position)
    return pixels if pixels.shape[1::-1] == image.size else None


def deep_image_problem(mode: str, deep_images: DeepImages) -> str:
    """Why an image of a mode of Pillow is refused, or ""."""
    if mode not in DEEP_MODES or deep_images != "error":
        return ""
    return "it has more than 8 bits per channel; set INPUT.DEEP_IMAGES 'full_range' or 'own_range' to scale such images"


def _eight_bits(image: Image.Image, deep_images: DeepImages) -> Image.Image:
    problem = deep_image_problem(image.mode, deep_images)
    if problem:
        raise ImageReadError(problem)
    if image.mode not in DEEP_MODES:
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageReadError("it holds values that are not finite")
    low, high = (0.0, DEEP_MODES[image.mode]) if deep_images == "full_range" else (values.min(), values.max())
    if values.min() < low or values.max() > high:
        raise ImageReadError(
            f"its values reach from {values.min():g} to {values.max():g}, beyond the range of its type, {low:g} to {high:g}; set "
            "INPUT.DEEP_IMAGES 'own_range'"
        )
    return Image.fromarray(np.rint((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8))


@contextlib.contextmanager
def reading_with(read: Callable[..., NDArray[np.generic]]) -> Iterator[None]:
    """Within it Detectron2's mappers, which take no reader, read images with this function."""
    original = detection_utils.read_image
    detection_utils.read_image = read
    try:
        yield
    finally:
        detection_utils.read_image = original
