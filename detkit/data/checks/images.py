"""Image files that are not there, cannot be read or have another size than annotated."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from .errors import DataFault

__all__ = ["MAX_HEADERS", "find_image_faults", "read_image_sizes"]

#: All files are looked for; of more than this many images, evenly spaced ones are opened. The rest is checked when it is read.
MAX_HEADERS = 10_000

_EXIF_ORIENTATION, _TRANSPOSED = 0x0112, (5, 6, 7, 8)
_THREADS = 8

_Found = TypeVar("_Found")


def find_image_faults(
    images: Sequence[dict[str, Any]], image_root: str | os.PathLike[str], *, decode: bool = False
) -> dict[Any, DataFault]:
    """Looks at the files of a COCO json's ``images``.

    Every file is looked for and must not be empty. Of up to :data:`MAX_HEADERS` the header is read for the size, and the end for
    what a complete file ends with; only files that end otherwise are decoded, to see whether they are truncated.

    Args:
        images: entries with ``id``, ``file_name``, ``width``, ``height``.
        image_root: the folder of the files.
        decode: read all pixels of every image instead, which takes as long as an epoch of reading.

    Returns:
        image id -> what is wrong with it.
    """
    spacing = 1 if decode else max(1, -(-len(images) // MAX_HEADERS))

    def look(item: tuple[int, dict[str, Any]]) -> DataFault | None:
        position, image = item
        return _look_at(image, Path(image_root), opens=position % spacing == 0, decode=decode)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(look, enumerate(images))
        return {image["id"]: fault for image, fault in zip(images, found, strict=True) if fault is not None}


def read_image_sizes(files: Sequence[Path]) -> list[tuple[int, int] | DataFault]:
    """(width, height) of each image as it is shown, from its header; what is wrong with it where it cannot be used."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda path: _attempt(path, path.name, lambda: _shown_size(*_measure(path))), files))


def _look_at(image: dict[str, Any], root: Path, *, opens: bool, decode: bool) -> DataFault | None:
    name, path = image["file_name"], root / image["file_name"]
    return _attempt(path, name, lambda: _compare(path, image, decode) if opens else None)


def _attempt(path: Path, name: str, look: Callable[[], _Found]) -> _Found | DataFault:
    """What ``look`` finds in a file, or what keeps it from looking."""
    try:
        if not os.stat(path).st_size:
            return DataFault("image file is empty (0 bytes)", name)
        return look()
    except FileNotFoundError:
        return DataFault("image file is missing", name)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return DataFault("image file cannot be read", name, str(error).replace(str(path), name))


def _measure(path: Path, decode: bool = False) -> tuple[tuple[int, int], bool]:
    """The size of a complete image as it is stored, and whether its EXIF data turns it on its side."""
    with Image.open(path) as file:
        size, transposed = file.size, _exif(file).get(_EXIF_ORIENTATION) in _TRANSPOSED
        if decode or not _ends_completely(path, file.format):
            file.load()
    return size, transposed


def _shown_size(size: tuple[int, int], transposed: bool) -> tuple[int, int]:
    return size[::-1] if transposed else size


def _compare(path: Path, image: dict[str, Any], decode: bool) -> DataFault | None:
    size, transposed = _measure(path, decode)
    shown = _shown_size(size, transposed)
    annotated = (image["width"], image["height"])
    if shown == annotated:
        return None
    detail = f"annotated {annotated[0]}x{annotated[1]}, the file is {shown[0]}x{shown[1]}"
    if transposed and size == annotated:
        detail += " after the rotation that its EXIF data asks for"
    return DataFault("image size differs from the annotation", image["file_name"], detail)


def _exif(file: Image.Image) -> Mapping[int, Any]:
    """The EXIF data; of a PNG only what stands before its pixels, because Pillow would decode them to look behind."""
    return {} if file.format == "PNG" and "exif" not in file.info else file.getexif()


def _ends_completely(path: Path, image_format: str | None) -> bool:
    """Whether the file ends with its format's end mark; False also where that is unknown."""
    mark = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}.get(image_format or "")
    if mark is None:
        return False
    with path.open("rb") as file:
        file.seek(-min(os.stat(path).st_size, 64), os.SEEK_END)
        return file.read().rstrip(b"\0\r\n").endswith(mark)
