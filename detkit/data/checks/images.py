"""Image files that are not there, cannot be read or have another size than annotated."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..reading import DeepImages, ImageReadError, deep_image_problem, read_image
from .errors import DataFault
from .progress import show_progress

__all__ = ["MAX_HEADERS", "find_image_faults", "read_image_sizes"]

#: All files are looked for; of more than this many images, evenly spaced ones are opened. The rest is checked when it is read.
MAX_HEADERS = 10_000

#: pixels of a side; Detectron2 cannot mirror an image of one column
_LEAST_SIDE = 2
_EXIF_ORIENTATION, _TRANSPOSED = 0x0112, (5, 6, 7, 8)
_THREADS = 8

_Found = TypeVar("_Found")


def find_image_faults(
    images: Sequence[dict[str, Any]],
    image_root: str | os.PathLike[str],
    *,
    decode: bool = False,
    deep_images: DeepImages = "error",
    resizing: Sequence[tuple[int, int]] = (),
) -> dict[Any, DataFault]:
    """Looks at the files of a COCO json's ``images``.

    Every file is looked for and must not be empty. Of up to :data:`MAX_HEADERS` the header is read for size and depth, and the end for
    what a complete file ends with; only files that end otherwise are decoded, to see whether they are truncated.

    Args:
        images: entries with ``id``, ``file_name``, ``width``, ``height``.
        image_root: the folder of the files.
        decode: read all pixels of every image instead, which takes as long as an epoch of reading.
        deep_images: see :data:`detkit.data.reading.DeepImages`.
        resizing: pairs of the shorter side that images are resized to and the most that their longer side may have, as of
            ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``; an image of which less than two rows or columns are left is a fault.

    Returns:
        image id -> what is wrong with it.
    """
    spacing = 1 if decode else max(1, -(-len(images) // MAX_HEADERS))

    def look(item: tuple[int, dict[str, Any]]) -> DataFault | None:
        position, image = item
        if any(_vanishes(image, *sizes) for sizes in resizing):
            return DataFault(
                f"image is so thin that a side has less than {_LEAST_SIDE} pixels when it is resized", image["file_name"], _size(image)
            )
        return _look_at(image, Path(image_root), opens=position % spacing == 0, decode=decode, deep_images=deep_images)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = show_progress(pool.map(look, enumerate(images)), len(images), f"images in {image_root}")
        return {image["id"]: fault for image, fault in zip(images, found, strict=True) if fault is not None}


def read_image_sizes(files: Sequence[Path]) -> list[tuple[int, int] | DataFault]:
    """(width, height) of each image as it is shown, from its header; what is wrong with it where it cannot be used."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda path: _attempt(path, path.name, lambda: _measure(path)[0]), files))


def _vanishes(image: dict[str, Any], shortest: int, longest: int) -> bool:
    """Whether a side is too short after resizing, as Detectron2's ``ResizeShortestEdge`` rounds; 0 leaves the size alone."""
    short, long = sorted((image["width"], image["height"]))
    return shortest > 0 and int(short * min(shortest / short, longest / long) + 0.5) < _LEAST_SIDE


def _size(image: dict[str, Any]) -> str:
    return f"{image['width']}x{image['height']}"


def _look_at(image: dict[str, Any], root: Path, *, opens: bool, decode: bool, deep_images: DeepImages) -> DataFault | None:
    name, path = image["file_name"], root / image["file_name"]
    return _attempt(path, name, lambda: _compare(path, image, decode, deep_images) if opens else None)


def _attempt(path: Path, name: str, look: Callable[[], _Found]) -> _Found | DataFault:
    """What ``look`` finds in a file, or what keeps it from looking."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            return DataFault("image file is no regular file but a folder, a pipe or a device", name)
        if not status.st_size:
            return DataFault("image file is empty (0 bytes)", name)
        return look()
    except FileNotFoundError:
        return DataFault("image file is missing", name)
    except Exception as error:  # Pillow's formats raise errors of many types for damaged files
        return DataFault("image file cannot be read", name, str(error).replace(str(path), name) or type(error).__name__)


def _measure(path: Path, decode: bool = False, deep_images: DeepImages = "error") -> tuple[tuple[int, int], bool]:
    """The size of a complete image as it is shown, and whether its EXIF data turns it on its side."""
    with Image.open(path) as file:
        problem = deep_image_problem(file.mode, deep_images)
        if problem:
            raise ImageReadError(problem)
        stored, late = file.size, _has_late_exif(file, path)
        transposed = not late and _exif(file).get(_EXIF_ORIENTATION) in _TRANSPOSED
        if not decode and not late and _ends_completely(path, file.format):
            return stored[::-1] if transposed else stored, transposed
    height, width = read_image(path, "RGB", deep_images=deep_images).shape[:2]
    return (width, height), transposed or (width, height) != stored


def _compare(path: Path, image: dict[str, Any], decode: bool, deep_images: DeepImages) -> DataFault | None:
    shown, transposed = _measure(path, decode, deep_images)
    annotated = (image["width"], image["height"])
    if shown == annotated:
        return None
    detail = f"annotated {_size(image)}, the file is {shown[0]}x{shown[1]}"
    if transposed and shown[::-1] == annotated:
        detail += " after the rotation that its EXIF data asks for"
    return DataFault("image size differs from the annotation", image["file_name"], detail)


def _exif(file: Image.Image) -> Mapping[int, Any]:
    """The EXIF data; of a PNG only what stands before its pixels, because Pillow would decode them to look behind."""
    return {} if file.format == "PNG" and "exif" not in file.info else file.getexif()


def _has_late_exif(file: Image.Image, path: Path) -> bool:
    """Whether EXIF data of a PNG stand behind its pixels, as the format allows: they show only when the pixels have been decoded.

    The chunks are walked along by their lengths, without reading what is in them."""
    if file.format != "PNG" or "exif" in file.info:
        return False
    with path.open("rb") as chunks:
        chunks.seek(8)
        while len(head := chunks.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            chunks.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)  # and the checksum
    return False


def _ends_completely(path: Path, image_format: str | None) -> bool:
    """Whether the file ends with its format's end mark; False also where that is unknown."""
    mark = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}.get(image_format or "")
    if mark is None:
        return False
    with path.open("rb") as file:
        file.seek(-min(os.stat(path).st_size, 64), os.SEEK_END)
        return file.read().rstrip(b"\0\r\n").endswith(mark)
