"""How far are resized and decoded images from Pillow's?

    python benchmarks/resized_pixels.py --data ../shared/data

Every image below a folder is decoded by simplejpeg (where it is installed) and by Pillow; then an even selection is resized by
``INPUT.RESIZE`` torch and by Pillow, in color and in gray: to the shorter sides of training and testing, to an odd size, and to an eighth.
Differences are in grey levels of 255, over all values of all images.
"""

from __future__ import annotations

import argparse
import io
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from detkit.data import pixels_of, read_image, transformed_pixels

#: a shorter side in pixels, or a share of the image's own
SIZES: dict[str, float] = {"with a shorter side of 480": 480, "of 800": 800, "of 641 x 427 pixels": 427, "an eighth of the size": 1 / 8}


def resized_both_ways(image: NDArray[np.uint8], to: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """By torch, by Pillow."""
    height, width = image.shape[:2]
    if to == SIZES["of 641 x 427 pixels"]:
        size = (427, 641)
    else:
        size = T.ResizeShortestEdge.get_output_shape(height, width, int(to) if to > 1 else max(8, int(min(height, width) * to)), 1333)
    transform = T.ResizeTransform(height, width, *size)
    return transformed_pixels(transform, image), transform.apply_image(image)


def decoded_both_ways(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """As this package reads files, by Pillow alone."""
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        return read_image(file, "BGR"), pixels_of(image, "BGR")  # type: ignore[return-value]


class Differences:
    """Counts values by how far they are apart."""

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)

    def add(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
        """Of two images of one shape."""
        apart = np.abs(one.astype(np.int16) - other)
        self.counts += np.bincount(apart.ravel(), minlength=256)

    def row(self) -> str:
        """Shares of values that differ, and that differ by more than 1; the worst."""
        differ, by_more = (100 * self.counts[least:].sum() / self.counts.sum() for least in (1, 2))
        return f"{differ:.3f} % | {by_more:.6f} % | {np.flatnonzero(self.counts).max()}"


def images_in(folder: Path) -> list[Path]:
    """All files that look like images."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def show(files: list[Path], title: str) -> Iterator[Path]:
    """With a progress bar on a terminal."""
    return iter(tqdm(files, desc=title, unit="img", leave=False, disable=not sys.stderr.isatty()))


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of images")
    parser.add_argument("--images", type=int, default=150, help="images that are resized")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = images_in(args.data)
    if not files:
        parser.error(f"--data: there is no image below {args.data}")
    print(f"{platform.machine()}, torch {torch.__version__}, Pillow {Image.__version__}, {len(files)} images\n")
    print("| compared with Pillow | values that differ | by more than 1 | worst |\n|---|---|---|---|")
    decoded = Differences()
    for file in show(files, "decoding"):
        decoded.add(*decoded_both_ways(file))
    print(f"| decoded | {decoded.row()} |")
    chosen = files[:: max(1, len(files) // args.images)]
    for name, size in SIZES.items():
        for channels in ("BGR", "L"):
            found = Differences()
            for file in show(chosen, f"{name}, {channels}"):
                found.add(*resized_both_ways(read_image(file, channels), size))  # type: ignore[arg-type]
            print(f"| resized, {name}, {'gray' if channels == 'L' else 'color'} | {found.row()} |")


if __name__ == "__main__":
    main()
